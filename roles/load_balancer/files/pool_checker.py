#!/usr/bin/python3
# Ansible managed
"""Asks every web host twice a second whether it is ready, and tells the nginx and the Perlbal of this load balancer.

It is the only writer of the pool. One that is drained is out at once; one that does not answer, or answers anything
else, is out after the second time; one that is ready is in at once, unless it missed a deploy while it was away; one
whose release is being watched is in as a canary, for what can be asked again of another.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

POOL_FILE = Path("/etc/nginx/trestle/pool.json")
# Is there while a run of Ansible is under way, which may drain hosts.
RUN_LOCK = Path("/var/lib/trestle/run-lock")
NGINX, PERLBAL = ("127.0.0.1", 8079), ("127.0.0.1", 60000)
PERIOD_SECONDS = 0.5
# A host that waits until its change is known goes on when it is asked again.
AGAIN_SECONDS = 0.1
TIMEOUT_SECONDS = 1.0
FAILURES_ALLOWED = 1
# An earlier release serves where nothing else does.
SERVE = ("up", "outdated")
# A readiness answer is a few hundred bytes; a project that answers in its place is not to be read to the end.
ANSWER_BYTES = 4096


@dataclass(frozen=True)
class Answer:
    """What a web host said; status 0 is no answer, and then text says why."""

    status: int
    text: str = ""

    @property
    def said(self) -> dict:
        try:
            said = json.loads(self.text)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def reasons(self) -> list[str]:
        """Why a host that can answer is not ready, in its own words."""
        reasons = self.said.get("reasons") if self.status == 503 and self.said.get("ready") is False else None
        return [str(reason) for reason in reasons] if isinstance(reasons, list) else []

    @property
    def deploy(self) -> int:
        """The number of the last deploy that a ready host took part in; 0 is none yet."""
        number = self.said.get("deploy") if self.status == 200 else None
        return number if isinstance(number, int) else 0


@dataclass(frozen=True)
class State:
    """A backend in the eyes of the checker."""

    name: str = "up"
    failures: int = 0
    why: str = "not asked yet"


def judge(before: State, answer: Answer) -> State:
    """The state of a backend after its latest answer."""
    if answer.status == 200:
        return State("canary", 0, "its release is watched") if answer.said.get("canary") else State("up", 0, "ready")
    if answer.reasons:
        return State("drained", 0, ", ".join(answer.reasons))
    failures = before.failures + 1
    why = f"status {answer.status}" if answer.status else answer.text
    return State("down" if failures > FAILURES_ALLOWED else before.name, failures, why)


def outdated(answers: dict[str, Answer]) -> set[str]:
    """The hosts of a site that missed the last deploy, and run a release that no host with that deploy runs.

    While a deploy is under way no host has finished it, and every release is as good as another. Where no host with the
    last deploy is ready, an earlier release is better than none.
    """
    last = max((answer.deploy for answer in answers.values()), default=0)
    current = [answer.said.get("release") for answer in answers.values() if answer.deploy == last]
    return {
        host
        for host, answer in answers.items()
        if 0 < answer.deploy < last and answer.said.get("release") not in current
    }


def ask(address: str, port: int, path: str = "ready", told: str = "") -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_SECONDS)
    try:
        headers = {"X-Trestle-Pool": told} if told else {}
        connection.request("GET", f"/health/{path}", headers={"Connection": "close", **headers})
        response = connection.getresponse()
        return Answer(response.status, response.read(ANSWER_BYTES).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def tell(states: dict[tuple[str, str], State], perlbal: str = "down") -> None:
    """Write the whole pool into nginx, which forgets what is not repeated; whether Perlbal has the same, and whether
    hosts may be drained soon."""
    run = "up" if RUN_LOCK.exists() else "down"
    pool: dict[str, dict[str, str]] = {"perlbal": {"steered": perlbal}, "run": {"under way": run}}
    for (site, host), state in states.items():
        pool.setdefault(site, {})[host] = state.name
    connection = http.client.HTTPConnection(*NGINX, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("PUT", "/pool", json.dumps(pool))
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise http.client.HTTPException(f"status {status}")


def told(states: dict[tuple[str, str], State], site: str, host: str) -> str:
    """What nginx has of a host, for the host itself: its state, and how many of the others can serve the site."""
    others = [state.name in SERVE for (of, name), state in states.items() if of == site and name != host]
    return f"{states[site, host].name} {sum(others)}/{len(others)}" if (site, host) in states else ""


def check(pool: dict, states: dict, executor: ThreadPoolExecutor, heard: bool = False) -> dict[tuple[str, str], State]:
    """One round: the new state of every backend of the pool; what left the pool is forgotten. ``heard`` is whether
    nginx has the states of the round before."""
    backends = [(site, backend) for site, members in pool.items() for backend in members]
    asked = executor.map(
        lambda b: ask(b[1]["address"], b[1]["port"], told=told(states, b[0], b[1]["host"]) if heard else ""), backends
    )
    answers: dict[str, dict[str, Answer]] = {}
    for (site, backend), answer in zip(backends, asked, strict=True):
        answers.setdefault(site, {})[backend["host"]] = answer
    after = {}
    for site, by_host in answers.items():
        late = outdated(by_host)
        for host, answer in by_host.items():
            before = states.get((site, host), State())
            state = State("outdated", 0, "missed a deploy") if host in late else judge(before, answer)
            after[site, host] = state
            if state.name != before.name:
                print(f"{site} on {host}: {before.name} -> {state.name} ({state.why})", flush=True)
    return after


def pause(before: dict, after: dict) -> float:
    """The seconds from one round to the next; a host whose failure is allowed has the usual time to recover."""
    changed = any(state.name != before.get(backend, State()).name for backend, state in after.items())
    failing = any(0 < state.failures <= FAILURES_ALLOWED for state in after.values())
    return AGAIN_SECONDS if changed and not failing else PERIOD_SECONDS


def perlbal(*commands: str) -> list[str]:
    """What this load balancer's Perlbal answers, line by line."""
    with socket.create_connection(PERLBAL, timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall("".join(f"{command}\n" for command in (*commands, "quit")).encode())
        lines = connection.makefile().read().splitlines()
    if errors := [line for line in lines if line.startswith("ERROR")]:
        raise OSError(errors[0])
    return lines


def steer(pool: dict, states: dict[tuple[str, str], State]) -> None:
    """Make Perlbal's pools equal to what is up: it begins with every host, and whenever it is started it begins anew.

    It knows no methods: a canary gets what nginx sends it past Perlbal, and is in the pool only where nobody is up.
    """
    commands = []
    for site, members in pool.items():
        name = re.sub(r"\W", "_", site)
        nodes = {f"{member['address']}:{member['port']}": states[site, member["host"]].name for member in members}
        best = "up" if "up" in nodes.values() else "canary"
        wanted = {node for node, state in nodes.items() if state == best}
        has = {line.split()[0] for line in perlbal(f"show pool {name}") if ":" in line}
        commands += [f"pool {name} add {node}" for node in sorted(wanted - has)]
        commands += [f"pool {name} remove {node}" for node in sorted(has - wanted)]
    if commands:
        perlbal(*commands)


class Listener:
    """One who is told the pool each round: ``hears`` after the last one; what changes is logged."""

    def __init__(self, name: str):
        self.name, self.hears = name, True

    def say(self, function, *arguments) -> None:
        try:
            function(*arguments)
            if not self.hears:
                print(f"{self.name} hears again", flush=True)
            self.hears = True
        except (OSError, http.client.HTTPException) as error:
            if self.hears:
                print(f"{self.name} does not hear: {error}", file=sys.stderr, flush=True)
            self.hears = False


def main() -> None:
    states: dict[tuple[str, str], State] = {}
    nginx = Listener("nginx")
    perlbal = Listener("Perlbal") if "--perlbal" in sys.argv else None
    with ThreadPoolExecutor(max_workers=64) as executor:
        while True:
            begun = time.monotonic()
            pool = json.loads(POOL_FILE.read_text())
            before, states = states, check(pool, states, executor, nginx.hears)
            if perlbal:
                perlbal.say(steer, pool, states)
            nginx.say(tell, states, "up" if perlbal and perlbal.hears else "down")
            time.sleep(max(0.0, pause(before, states) - (time.monotonic() - begun)))


if __name__ == "__main__":
    main()
