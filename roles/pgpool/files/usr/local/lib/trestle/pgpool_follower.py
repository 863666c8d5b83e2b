#!/usr/bin/python3
# Ansible managed: role pgpool
"""Makes pgpool's view of its backends equal to Patroni's: who is primary, who is up.

Patroni alone decides. Once a second, and more often where nobody is the primary, this asks every backend's Patroni what
it is, asks pgpool (over PCP and its journal) what it believes, and corrects pgpool. It keeps nothing but counters of
seconds and what it tells of itself, so it may be restarted at any time.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PATRONI_PORT = 8008
PCP = ["-h", "/run/pgpool", "-p", "9898", "-U", "pcp", "-w"]
STATE = Path("/run/pgpool/follower.json")
PID_FILE, SOCKET = Path("/run/pgpool/pgpool.pid"), Path("/run/pgpool/.s.PGSQL.9898")
# pgpool's processes that serve no client, by their titles.
NO_CHILD = r"pgpool: (health check|worker|PCP|watchdog|lifecheck|heartbeat)"
# A change of the backends restarts pgpool's children. For so long after it is looked whether the old ones end.
ENDING_SECONDS = 5.0
CRIPPLED_SECONDS = 1.5
# How often, and after which pauses, its new children are woken after a promotion.
WAKES, WAKE_SECONDS = 4, 0.15
# Between two rounds; and where nobody is the primary, which is soon to end, or something was just done.
ROUND_SECONDS, HASTE_SECONDS = 1.0, 0.2
# Two rounds; and a healthy standby does not stream for a while after a failover: that is no reason to detach it.
DETACH_DOWN_SECONDS, DETACH_STALE_SECONDS = 1.5, 9.5
# Whoever logs in waits for a second or two while pgpool attaches a backend: not as soon as there is a new primary.
ATTACH_SECONDS = 2.5
# What pgpool says where it begins, and where it or one of its children changes which backend is the first that is up.
MAIN_LINE = r"pgpool-II successfully started|(?:set new main node:|Update main node to) (-?\d+)"
MAIN_WRONG_SECONDS = 1.5


class Backend(NamedTuple):
    """What pgpool believes of one backend."""

    id: int
    host: str
    up: bool
    primary: bool


class Count(NamedTuple):
    """For how many seconds a host was down, was a standby that does not stream, and was one that does."""

    down: float = 0
    stale: float = 0
    standby: float = 0


class Following(NamedTuple):
    """What seconds are counted from, by the monotonic clock, and the last change of the primary that was followed."""

    primary: str | None = None
    answered: float = 0.0
    named: float | None = None
    followed: dict | None = None


def role_of(code: int, answer: dict) -> str:
    """What a Patroni's answer to GET /primary says: primary, standby, stale, starting or down."""
    if answer.get("state") != "running":
        return "down"
    if code == 200:
        return "primary" if answer.get("role") in ("primary", "master") else "starting"
    if answer.get("role") != "replica":
        return "down"
    return "standby" if answer.get("replication_state") == "streaming" else "stale"


def probe(host: str) -> tuple[str, int]:
    """What it is, and on which timeline."""
    try:
        try:
            with urllib.request.urlopen(f"http://{host}:{PATRONI_PORT}/primary", timeout=1) as reply:
                code, answer = 200, json.load(reply)
        except urllib.error.HTTPError as reply:
            code, answer = reply.code, json.load(reply)
        return role_of(code, answer), answer.get("timeline", 0)
    except (OSError, ValueError):
        return "down", 0


def roles(answers: dict[str, tuple[str, int]]) -> dict[str, str]:
    """A primary of an earlier timeline was replaced while it was frozen or cut off, and does not know it yet."""
    newest = max((timeline for role, timeline in answers.values() if role == "primary"), default=0)
    return {h: "down" if role == "primary" and timeline < newest else role for h, (role, timeline) in answers.items()}


def count(real: dict[str, str], before: dict[str, Count], seconds: float = ROUND_SECONDS) -> dict[str, Count]:
    """``seconds`` have passed since the round before."""
    counts = {}
    for host, role in real.items():
        old = before.get(host, Count())
        counts[host] = Count(*(getattr(old, of) + seconds if role == of else 0 for of in Count._fields))
    return counts


def leader_of(real: dict[str, str]) -> str | None:
    """Whom Patroni names: the one host that says it is the primary."""
    leaders = [host for host, role in real.items() if role == "primary"]
    return leaders[0] if len(leaders) == 1 else None


def main_of(said: str, before: int | None) -> int | None:
    """Which backend is the main one, to pgpool's new children, by what its journal has said since."""
    for line in said.splitlines():
        if found := re.search(MAIN_LINE, line):
            before = int(found[1]) if found[1] else None
    return before


def main_is_wrong(pool: list[Backend], main: int | None) -> bool:
    """It must be the first that is up. A child that could not reach that one names another, and nobody ever takes it
    back: each new child then fails its clients, until a backend is attached or detached."""
    return main is not None and main != next((backend.id for backend in pool if backend.up), main)


def decide(
    real: dict[str, str], pool: list[Backend], counts: dict[str, Count], main_wrong: float = 0
) -> list[tuple[str, int]]:
    """What to do, as (attach | promote | detach, backend): nothing unless exactly one host says it is the primary.

    ``main_wrong``: for so many seconds pgpool's main backend was not the first. A detached standby is attached again
    in the next round, and pgpool counts anew with each.
    """
    leader = next((backend for backend in pool if backend.host == leader_of(real)), None)
    if not leader:
        return []
    if not leader.up:
        return [("attach", leader.id)]
    if not leader.primary:
        return [("promote", leader.id)]
    actions = []
    for backend in pool:
        if backend is leader:
            continue
        counted = counts.get(backend.host, Count())
        gone = counted.down >= DETACH_DOWN_SECONDS or counted.stale >= DETACH_STALE_SECONDS
        if counted.standby >= ATTACH_SECONDS and not backend.up:
            actions.append(("attach", backend.id))
        elif gone and backend.up:
            actions.append(("detach", backend.id))
    first = next(backend for backend in pool if backend.up)
    if not actions and main_wrong >= MAIN_WRONG_SECONDS and first is not leader:
        actions.append(("detach", first.id))
    return actions


def agreed(real: dict[str, str], pool: list[Backend]) -> str | None:
    """The primary of which pgpool and Patroni say the same."""
    primaries = [b.host for b in pool if b.up and b.primary and real.get(b.host) == "primary"]
    return primaries[0] if len(primaries) == 1 else None


def follow(before: Following, now: float, leader: str | None, primary: str | None) -> Following:
    """``leader`` is whom Patroni names now, ``primary`` whom pgpool agrees upon."""
    if primary is None:
        answered = now if leader and leader == before.primary else before.answered
        named = None if leader in (None, before.primary) else before.named or now
        return before._replace(answered=answered, named=named)
    followed = before.followed
    if before.primary not in (None, primary):
        followed = {
            "from": before.primary,
            "to": primary,
            "time": time.time(),
            # Since the old one last said that it is the primary, and since Patroni named the new one.
            "seconds": round(now - before.answered, 2),
            "own_seconds": round(now - (before.named or now), 2),
        }
    return Following(primary, now, None, followed)


def parse_pool(text: str) -> list[Backend]:
    """The answer to pcp_node_info -a: host port status weight status-name postgres-status role ..."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return [Backend(i, row[0], row[4] in ("up", "waiting"), row[6] == "primary") for i, row in enumerate(rows)]


def summary(real: dict[str, str], pool: list[Backend], actions: list[tuple[str, int]]) -> dict:
    """What check_pgpool and Munin read."""
    primary = agreed(real, pool)
    return {
        "time": time.time(),
        "state": "correcting" if actions else "agreed" if primary else "waiting",
        "primary": primary,
        "standbys": [b.host for b in pool if b.up and not b.primary and real.get(b.host) == "standby"],
        "backends": [b._asdict() | {"patroni": real.get(b.host)} for b in pool],
        "actions": actions,
    }


def pcp(command: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run([command, *PCP, *arguments], capture_output=True, text=True, timeout=8)
    except subprocess.TimeoutExpired:
        print(f"{command} {' '.join(arguments)}: no answer within 8 s", flush=True)
        return None
    if done.returncode:
        print(f"{command} {' '.join(arguments)}: {done.stderr.strip()}", flush=True)
        return None
    return done.stdout


def main_pid() -> int:
    """pgpool's own, from its file, which ends in a zero byte; main_process() knows of one that has lost its files."""
    return int(PID_FILE.read_text().rstrip("\0\n"))


def children(main: int) -> set[int]:
    """The processes of this pgpool that serve clients; one that has ended and was not reaped yet has no title."""
    found = set()
    for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split():
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            if title and not re.match(NO_CHILD, title):
                found.add(int(pid))
    return found


def wake_children() -> None:
    """A promotion restarts all of them, and each that is there before it has ended sleeps for a second.

    A signal ends that sleep and does nothing else; thirty would be taken for thirty seconds. Not after an attach: those
    that wait for a client would all end at once, and pgpool forks new ones a second later.
    """
    for _ in range(WAKES):
        time.sleep(WAKE_SECONDS)
        with contextlib.suppress(OSError, ValueError):
            for pid in children(main_pid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR2)


def end(pid: int, why: str) -> None:
    print(f"{why}: killed", flush=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Leftovers:
    """Children that pgpool has given up, and that do not end.

    It sends each two SIGQUITs, and one that comes while the first is ending the process can block it for ever inside of
    exit(); its client then waits for ever too.
    """

    def __init__(self):
        self.before: set[int] = set()

    def look(self, there: set[int], known: set[int]) -> set[int]:
        """Those to kill: not among ``known``, whom pgpool named after ``there`` was read, now and the time before."""
        unknown = there - known
        stay, self.before = unknown & self.before, unknown
        return stay

    def kill(self) -> None:
        try:
            there = children(main_pid())
        except (OSError, ValueError):
            # It is being stopped or started.
            return
        if known := {int(pid) for pid in (pcp("pcp_proc_count") or "").split()}:
            for pid in self.look(there, known):
                end(pid, f"child {pid} of pgpool does not end")


def end_connecting(pool: list[Backend]) -> None:
    """Children that try to reach a backend that was detached meanwhile: pgpool has them try for as long as it is gone,
    and one that gets through marks it as up, which it is to nobody else: each new child then fails its clients."""
    for backend in pool:
        if not backend.up:
            command = ["ss", "-Htnp", "state", "syn-sent", "dst", backend.host]
            # pgpool is being stopped or started, or the host is too busy: the next round looks again.
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                said = subprocess.run(command, capture_output=True, text=True, timeout=8).stdout
                for pid in {int(pid) for pid in re.findall(r"\bpid=(\d+)", said)} & children(main_pid()):
                    end(pid, f"child {pid} of pgpool tries to reach {backend.host}, which is detached")


def main_process() -> int:
    """systemd's; 0 where pgpool does not run."""
    command = ["systemctl", "show", "--property=MainPID", "--value", "pgpool2"]
    return int(subprocess.run(command, capture_output=True, text=True, timeout=8).stdout or 0)


def is_crippled() -> bool:
    """A child that is killed as soon as it was forked does what only pgpool should do, when it ends: it removes its
    sockets and semaphores. pgpool listens on them still, and nobody can tell it anything any more. One that starts
    listens nowhere yet, for as long as it waits for its backends."""
    return not SOCKET.exists() and str(SOCKET) in Path("/proc/net/unix").read_text().split()


def end_crippled() -> None:
    """systemd starts it again."""
    if pid := main_process():
        end(pid, f"pgpool, process {pid}, has lost its sockets")


def journal(since: float | None) -> str:
    """What pgpool has said of its main backend since that time; without one, the last of it."""
    when = ["--lines=1"] if since is None else [f"--since=@{int(since)}"]
    command = ["journalctl", "--unit=pgpool2", "--output=cat", "--quiet", f"--grep={MAIN_LINE}", *when]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=8).stdout
    except subprocess.TimeoutExpired:
        return ""


def write_state(state: dict) -> None:
    """Whole or not at all. pgpool's folder is gone while it is stopped: there is nothing to tell then."""
    try:
        scratch = STATE.with_suffix(".new")
        scratch.write_text(json.dumps(state))
        os.replace(scratch, STATE)
    except OSError:
        pass


def main() -> None:
    counts: dict[str, Count] = {}
    following, decided, said, last = Following(), None, None, 0.0
    main, main_wrong, looked = None, 0.0, None
    leftovers, restarted, unheard = Leftovers(), time.monotonic(), None
    with ThreadPoolExecutor(8) as threads:
        while True:
            began = time.monotonic()
            pool = parse_pool(pcp("pcp_node_info", "-a") or "")
            unheard = (unheard or began) if not pool and is_crippled() else None
            if unheard and began - unheard > CRIPPLED_SECONDS:
                end_crippled()
            end_connecting(pool)
            hosts = [backend.host for backend in pool]
            real = roles(dict(zip(hosts, threads.map(probe, hosts), strict=True)))
            seconds, last = min(ROUND_SECONDS, began - last), began
            counts = count(real, counts, seconds)
            main, looked = main_of(journal(looked), main), time.time()
            main_wrong = main_wrong + seconds if main_is_wrong(pool, main) else 0.0
            actions = decide(real, pool, counts, main_wrong)
            if real != said or actions:
                said = real
                print(f"patroni: {real}; to do: {actions or 'nothing'}", flush=True)
            if actions:
                decided = {"time": time.time(), "actions": [[what, hosts[which]] for what, which in actions]}
            before, following = following, follow(following, time.monotonic(), leader_of(real), agreed(real, pool))
            if following.followed != before.followed:
                print(f"followed: {following.followed}", flush=True)
            write_state(summary(real, pool, actions) | {"decided": decided, "followed": following.followed})
            for action, backend in actions:
                pcp(f"pcp_{action}_node", "-n", str(backend))
                restarted = time.monotonic()
            if any(action == "promote" for action, _ in actions):
                # A standby that did not stop streaming is not attached at once either.
                counts = {}
                threads.submit(wake_children)
            if time.monotonic() - restarted < ENDING_SECONDS:
                leftovers.kill()
            pause = HASTE_SECONDS if actions or not leader_of(real) else ROUND_SECONDS
            time.sleep(max(0.1, pause - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
