"""The follower's decision: what it does to pgpool, given what Patroni says and what pgpool believes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles/pgpool/files/usr/local/lib/trestle"
MUNIN = ROLE.parents[5] / "munin_node/files/usr/local/share/munin/plugins/pgpool_follower"
CHECK = ROLE.parent / "nagios/plugins/check_pgpool"


@pytest.fixture(scope="module")
def follower():
    spec = importlib.util.spec_from_file_location("pgpool_follower", ROLE / "pgpool_follower.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pool_of(follower, *backends: str) -> list:
    """Backends a, b, c ... from words like "up primary"."""
    return [
        follower.Backend(i, "abc"[i], word.startswith("up"), word.endswith("primary"))
        for i, word in enumerate(backends)
    ]


HEALTHY = ("up primary", "up standby", "up standby")


@pytest.mark.parametrize(
    ("real", "believed", "wanted"),
    [
        ("primary standby standby", HEALTHY, []),
        # A switchover: pgpool is told who leads now, and nothing else in that round.
        ("standby primary standby", HEALTHY, [("promote", 1)]),
        # The new leader was detached: it is attached first, promoted in the next round.
        ("down primary standby", ("up primary", "down standby", "up standby"), [("attach", 1)]),
        # Two that say so, or none: Patroni is in the middle of something.
        ("primary primary standby", HEALTHY, []),
        ("standby standby standby", HEALTHY, []),
        ("down down down", HEALTHY, []),
        ("starting standby standby", HEALTHY, []),
        # A standby that does not stream is left as it is.
        ("primary stale standby", ("up primary", "down standby", "up standby"), []),
        ("primary stale standby", HEALTHY, []),
        # One probe is no reason to attach or to detach a standby (the counters are below).
        ("primary standby standby", ("up primary", "down standby", "up standby"), []),
        ("primary down standby", HEALTHY, []),
    ],
)
def test_decision(follower, real, believed, wanted):
    states = dict(zip("abc", real.split(), strict=True))
    counts = follower.count(states, {})
    assert follower.decide(states, pool_of(follower, *believed), counts) == wanted


def test_a_standby_that_streams_again_is_attached_after_three_probes(follower):
    states, counts = {"a": "primary", "b": "standby", "c": "standby"}, {}
    pool = pool_of(follower, "up primary", "down standby", "up standby")
    for probe in range(1, 4):
        counts = follower.count(states, counts)
        assert follower.decide(states, pool, counts) == ([("attach", 1)] if probe == 3 else []), f"probe {probe}"


def test_a_dead_standby_is_detached_after_two_probes_and_a_stale_one_after_ten(follower):
    for role, probes in (("down", 2), ("stale", 10)):
        states, counts = {"a": "primary", "b": role, "c": "standby"}, {}
        for probe in range(1, probes + 1):
            counts = follower.count(states, counts)
            actions = follower.decide(states, pool_of(follower, *HEALTHY), counts)
            assert actions == ([("detach", 1)] if probe == probes else []), f"{role}, probe {probe}"
        counts = follower.count({"a": "primary", "b": "standby", "c": "standby"}, counts)
        assert counts["b"][:2] == (0, 0), "one good answer starts the count again"


@pytest.mark.parametrize(
    ("said", "before", "main"),
    [
        ("", 1, 1),
        ("7: main LOG:  failover: set new main node: 2", 0, 2),
        ("9: child LOG:  main node 0 is down. Update main node to 1\n"
         "9: child LOG:  main node 1 is down. Update main node to -1", 0, -1),
        ("9: child LOG:  main node 0 is down. Update main node to 1\n"
         "7: main LOG:  failover: set new main node: 0", None, 0),
        # One that begins counts by itself.
        ("7: main LOG:  pgpool-II successfully started. version 4.6.1 (chirikoboshi)", 2, None),
    ],
)  # fmt: skip
def test_pgpool_says_in_its_journal_which_backend_is_the_main_one(follower, said, before, main):
    assert follower.main_of(said, before) == main


@pytest.mark.parametrize(
    ("believed", "main", "wrong"),
    [
        (HEALTHY, 0, False),
        (HEALTHY, None, False),
        (("down standby", "up primary", "up standby"), 1, False),
        (("up standby", "up primary", "up standby"), 1, True),
        (("up standby", "up primary", "up standby"), -1, True),
    ],
)
def test_the_main_backend_must_be_the_first_that_is_up(follower, believed, main, wrong):
    assert follower.main_is_wrong(pool_of(follower, *believed), main) == wrong


def test_a_main_backend_that_stays_wrong_is_mended_by_detaching_the_first_standby_for_a_round(follower):
    states = {"a": "standby", "b": "primary", "c": "standby"}
    counts = follower.count(states, {}, 60)
    pool = pool_of(follower, "up standby", "up primary", "up standby")
    assert follower.decide(states, pool, counts, main_wrong=1.0) == []
    assert follower.decide(states, pool, counts, main_wrong=2.0) == [("detach", 0)]
    detached = pool_of(follower, "down standby", "up primary", "up standby")
    assert follower.decide(states, detached, counts, main_wrong=2.0) == [("attach", 0)], "what is to do goes first"
    # The primary is never detached.
    assert (
        follower.decide({"a": "primary"} | dict.fromkeys("bc", "standby"), pool_of(follower, *HEALTHY), {}, 2.0) == []
    )


def test_rounds_in_haste_count_for_as_long_as_they_take(follower):
    states, counts = {"a": "primary", "b": "down", "c": "stale"}, {}
    for _ in range(7):
        counts = follower.count(states, counts, follower.HASTE_SECONDS)
    assert follower.decide(states, pool_of(follower, *HEALTHY), counts) == []
    counts = follower.count(states, counts, follower.HASTE_SECONDS)
    assert follower.decide(states, pool_of(follower, *HEALTHY), counts) == [("detach", 1)]


def test_a_host_that_left_is_forgotten(follower):
    counts = follower.count({"a": "primary", "b": "down"}, {})
    assert set(follower.count({"a": "primary"}, counts)) == {"a"}


def test_one_host_alone(follower):
    alone = pool_of(follower, "up primary")
    assert follower.decide({"a": "primary"}, alone, {}) == []
    assert follower.decide({"a": "down"}, alone, {"a": follower.Count(down=9)}) == []


@pytest.mark.parametrize(
    ("code", "answer", "role"),
    [
        (200, {"state": "running", "role": "primary"}, "primary"),
        (200, {"state": "running", "role": "standby_leader"}, "starting"),
        (503, {"state": "running", "role": "replica", "replication_state": "streaming"}, "standby"),
        (503, {"state": "running", "role": "replica", "replication_state": "in archive recovery"}, "stale"),
        (503, {"state": "running", "role": "primary"}, "down"),  # a primary that lost its lease
        (503, {"state": "starting", "role": "replica"}, "down"),
        (503, {}, "down"),
    ],
)
def test_what_patroni_answers(follower, code, answer, role):
    assert follower.role_of(code, answer) == role


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ({"a": ("primary", 4), "b": ("standby", 0)}, "primary standby"),
        ({"a": ("primary", 4), "b": ("primary", 5)}, "down primary"),
        # Patroni is in the middle of something.
        ({"a": ("primary", 4), "b": ("primary", 4)}, "primary primary"),
        ({"a": ("primary", 4), "b": ("starting", 5)}, "primary starting"),
        ({"a": ("down", 0), "b": ("standby", 0)}, "down standby"),
    ],
)
def test_of_two_primaries_the_one_of_the_earlier_timeline_was_replaced(follower, answers, wanted):
    assert " ".join(follower.roles(answers).values()) == wanted


def test_a_host_is_asked_for_its_role_and_its_timeline(follower, monkeypatch):
    class Patroni(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.server.said["role"] == "primary" else 503)
            self.end_headers()
            self.wfile.write(json.dumps({"state": "running"} | self.server.said).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Patroni) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(follower, "PATRONI_PORT", server.server_address[1])
        server.said = {"role": "primary", "timeline": 4}
        assert follower.probe("127.0.0.1") == ("primary", 4)
        server.said = {"role": "replica", "replication_state": "streaming"}
        assert follower.probe("127.0.0.1") == ("standby", 0)
        server.shutdown()
    assert follower.probe("127.0.0.1") == ("down", 0)


def test_what_pgpool_answers(follower):
    text = (
        "10.0.0.1 5432 2 0.5 up unknown standby unknown 0 streaming quorum 2026-01-01 00:00:00\n"
        "10.0.0.2 5432 1 0.5 waiting unknown primary unknown 0 none none 2026-01-01 00:00:00\n"
        "10.0.0.3 5432 3 0.5 down unknown standby unknown 0 none none 2026-01-01 00:00:00\n"
    )
    assert [tuple(b) for b in follower.parse_pool(text)] == [
        (0, "10.0.0.1", True, False),
        (1, "10.0.0.2", True, True),
        (2, "10.0.0.3", False, False),
    ]
    assert follower.parse_pool("") == []


@pytest.fixture
def pgpool(follower, tmp_path, monkeypatch):
    """A process with three children, of which one serves no client; ``pcp_proc_count`` says what ``known`` holds."""
    # The shell becomes another program, which reaps none of them. None has a title while it does so.
    script = "(exec -a 'pgpool: worker process' sleep 60) & sleep 60 & sleep 60 & sleep 60 & exec sleep 61"
    with subprocess.Popen(["bash", "-c", script]) as main:
        children = Path(f"/proc/{main.pid}/task/{main.pid}/children")
        title = {}
        while sorted(title.values()) != ["pgpool:", "sleep", "sleep", "sleep", "sleep"]:
            pids = [main.pid, *map(int, children.read_text().split())]
            title = {pid: re.split(r"[\0 ]", Path(f"/proc/{pid}/cmdline").read_text())[0] for pid in pids}
        *main.known, ended = [pid for pid in pids[1:] if title[pid] == "sleep"]
        os.kill(ended, signal.SIGKILL)
        while Path(f"/proc/{ended}/cmdline").read_text():
            time.sleep(0.01)
        (tmp_path / "pid").write_text(f"{main.pid}\0")
        monkeypatch.setattr(follower, "PID_FILE", tmp_path / "pid")
        monkeypatch.setattr(follower, "pcp", lambda command: " ".join(map(str, main.known)))
        main.children = lambda: children.read_text().split()
        yield main
        for pid in [*main.children(), main.pid]:
            os.kill(int(pid), signal.SIGKILL)


def test_a_child_that_pgpool_has_given_up_and_that_does_not_end_is_killed_at_the_second_look(follower, pgpool):
    one, two = pgpool.known
    assert follower.children(pgpool.pid) == {one, two}
    leftovers = follower.Leftovers()
    for known, alive in (
        ([one, two], {one, two}),
        ([one], {one, two}),
        ([one, two], {one, two}),  # it was only being forked
        ([one], {one, two}),
        ([], {one, two}),  # pgpool gives no answer
        ([one], {one}),
    ):
        pgpool.known = known
        leftovers.kill()
        time.sleep(0.05)
        assert follower.children(pgpool.pid) == alive
    titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pgpool.children()]
    assert any(title.startswith("pgpool: worker") for title in titles)


def test_a_child_that_tries_to_reach_a_backend_that_is_detached_is_killed(follower, tmp_path, monkeypatch):
    """Nobody else who does, as these tests themselves, and none that tries to reach another one."""
    gone, other = "127.0.0.9", "127.0.0.8"
    with contextlib.ExitStack() as opened:
        # A full queue answers nobody.
        server = opened.enter_context(socket.create_server((gone, 0), backlog=0))
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        connect = f"import socket; socket.socket().connect({server.getsockname()})"
        script = f'{sys.executable} -c "{connect}" & sleep 60 & exec sleep 61'
        main = opened.enter_context(subprocess.Popen(["bash", "-c", script]))
        opened.callback(main.kill)
        (tmp_path / "pid").write_text(f"{main.pid}\0")
        monkeypatch.setattr(follower, "PID_FILE", tmp_path / "pid")

        def trying() -> set[int]:
            said = subprocess.check_output(["ss", "-Htnp", "state", "syn-sent", "dst", gone], text=True)
            return set(map(int, re.findall(r"pid=(\d+)", said))) - {os.getpid()}

        while not trying():
            time.sleep(0.05)
        (child,), both = trying(), follower.children(main.pid)
        opened.callback(lambda: [os.kill(pid, signal.SIGKILL) for pid in follower.children(main.pid)])
        for host, up, alive in ((gone, True, both), (other, False, both), (gone, False, both - {child})):
            follower.end_connecting([follower.Backend(0, host, up, False)])
            time.sleep(0.05)
            assert follower.children(main.pid) == alive
        assert child in both and len(both) == 2


def test_who_is_woken_serves_clients(follower, pgpool, monkeypatch):
    """These end of it; pgpool's children only stop sleeping."""
    monkeypatch.setattr(follower, "WAKE_SECONDS", 0.01)
    assert len(pgpool.known) == 2
    follower.wake_children()
    assert follower.children(pgpool.pid) == set()
    titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pgpool.children()]
    assert any(title.startswith("pgpool: worker") for title in titles)


def test_a_pgpool_that_listens_on_a_socket_that_is_not_there_any_more_is_crippled(follower, tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "SOCKET", tmp_path / "pcp")
    assert not follower.is_crippled(), "it only starts"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(follower.SOCKET))
        assert not follower.is_crippled()
        follower.SOCKET.unlink()
        assert follower.is_crippled()


def test_a_crippled_pgpool_is_killed(follower, monkeypatch):
    with subprocess.Popen(["sleep", "60"]) as process:
        monkeypatch.setattr(follower, "main_process", lambda: process.pid)
        follower.end_crippled()
        assert process.wait(5) == -signal.SIGKILL
    follower.end_crippled()
    monkeypatch.setattr(follower, "main_process", lambda: 0)
    follower.end_crippled()


def test_where_pgpool_is_stopped_nobody_is_killed(follower, tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "PID_FILE", tmp_path / "pid")
    monkeypatch.setattr(follower, "WAKE_SECONDS", 0.01)
    follower.Leftovers().kill()
    (tmp_path / "pid").write_text("")
    follower.Leftovers().kill()
    follower.wake_children()


def test_the_summary_names_a_primary_only_where_both_agree(follower):
    pool = pool_of(follower, *HEALTHY)
    agreed = follower.summary({"a": "primary", "b": "standby", "c": "standby"}, pool, [])
    assert (agreed["primary"], agreed["standbys"], agreed["state"]) == ("a", ["b", "c"], "agreed")
    switched = {"a": "standby", "b": "primary", "c": "standby"}
    assert follower.summary(switched, pool, [("promote", 1)])["primary"] is None
    assert follower.summary(switched, pool, [("promote", 1)])["state"] == "correcting"
    assert follower.summary(dict.fromkeys("abc", "standby"), pool, [])["state"] == "waiting"


def followed(follower, *looks: tuple[float, str | None, str | None]):
    """After looks at the clock, at whom Patroni names, and at whom pgpool agrees upon."""
    following = follower.Following()
    for look in looks:
        following = follower.follow(following, *look)
    return following.followed


def test_the_seconds_to_follow_count_from_the_old_primary_s_last_answer_and_from_the_new_one_s_first(follower):
    looks = [
        (100, "a", "a"),
        (101, "a", "a"),
        (102, None, None),
        (103, None, None),
        (104.5, "b", None),
        (105, "b", "b"),
    ]
    change = followed(follower, *looks)
    assert (change["from"], change["to"], change["seconds"], change["own_seconds"]) == ("a", "b", 4, 0.5)
    later = followed(follower, *looks, (106, "b", "b"))
    assert later | {"time": change["time"]} == change, "until the next one it stays"
    assert followed(follower, *looks[:-1]) is None


def test_what_comes_back_as_it_was_was_not_followed(follower):
    assert followed(follower, (100, "a", "a"), (101, None, None), (103, "a", None), (104, "a", "a")) is None
    assert followed(follower, (100, "a", None), (101, "a", "a")) is None, "nor was the first that is known"


def test_a_name_that_is_taken_back_does_not_count(follower):
    looks = [(100, "a", "a"), (101, "b", None), (102, None, None), (107, "b", None), (108, "b", "b")]
    assert followed(follower, *looks)["own_seconds"] == 1


def test_seconds_count_from_the_last_answer_even_where_pgpool_had_lost_sight_of_the_primary(follower):
    looks = [(100, "a", "a"), (105, "a", None), (106, None, None), (108, "b", "b")]
    assert followed(follower, *looks)["seconds"] == 3


STATE = {"state": "agreed", "primary": "192.0.2.2", "standbys": ["192.0.2.1"], "backends": [{}, {}]}
FOLLOWED = {
    "decided": {"time": 0, "actions": [["promote", "192.0.2.2"]]},
    "followed": {"from": "192.0.2.1", "to": "192.0.2.2", "time": 0, "seconds": 3.4, "own_seconds": 0.6},
}


@pytest.mark.parametrize(
    ("state", "code", "says"),
    [
        (STATE, 0, "OK: agreed, primary 192.0.2.2, 1 standbys | standbys=1"),
        (STATE | {"state": "waiting", "primary": None}, 2, "CRITICAL: waiting, primary None"),
        (STATE | {"standbys": []}, 1, "WARNING"),
        (STATE | {"time": 1}, 2, "CRITICAL: pgpool-follower last looked"),
        (STATE | FOLLOWED, 0, "standbys=1 without_primary=3.4s follow=0.6s"),
        (STATE | FOLLOWED, 0, "1 standbys (promote 192.0.2.2 19"),
    ],
)
def test_what_nagios_is_told(tmp_path, state, code, says):
    """The check with another state file and port, run as Nagios does."""
    file = tmp_path / "follower.json"
    file.write_text(json.dumps({"time": time.time()} | state))
    with socket.create_server(("127.0.0.1", 0)) as pgpool:
        text = CHECK.read_text().replace("/run/pgpool/follower.json", str(file))
        text = text.replace("5432", str(pgpool.getsockname()[1]))
        run = [sys.executable, "-c", text]
        done = subprocess.run(run, capture_output=True, text=True, timeout=20, env={"TZ": "UTC"})
    assert (done.returncode, done.stderr) == (code, "")
    assert says in done.stdout


def test_what_munin_is_told(tmp_path):
    """Figures for the fields that the plugin declares, and unknown ones where there is nothing to tell."""
    file = tmp_path / "follower.json"
    text = MUNIN.read_text().replace("/run/pgpool/follower.json", str(file))

    def run(*arguments: str) -> list[str]:
        command = [sys.executable, "-c", text, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()

    declared = [line.split(".label")[0] for line in run("config") if ".label" in line]
    assert run() == [f"{name}.value U" for name in declared]
    file.write_text(json.dumps(STATE | FOLLOWED))
    assert run() == ["standbys.value 1", "without_primary.value 3.4", "follow.value 0.6"]
    file.write_text(json.dumps(STATE | {"decided": None, "followed": None}))
    assert run() == ["standbys.value 1", "without_primary.value U", "follow.value U"]
