"""The pool checker's judgement, without a host: roles/load_balancer/files/pool_checker.py."""

from __future__ import annotations

import http.server
import importlib.util
import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles/load_balancer/files/pool_checker.py"
spec = importlib.util.spec_from_file_location("pool_checker", FILE)
checker = importlib.util.module_from_spec(spec)
sys.modules["pool_checker"] = checker
spec.loader.exec_module(checker)

READY = checker.Answer(200, '{"ready": true}')
DRAINED = checker.Answer(503, '{"ready": false, "reasons": ["drained"]}')
CANARY = checker.Answer(200, '{"ready": true, "canary": true}')
BUSY = checker.Answer(503, "too many requests")
SILENT = checker.Answer(0, "timed out")


def names(*answers, start="up"):
    state, seen = checker.State(start), []
    for answer in answers:
        state = checker.judge(state, answer)
        seen.append(state.name)
    return seen


def test_a_drained_host_is_out_at_once_and_in_again_at_once():
    assert names(READY, DRAINED, READY) == ["up", "drained", "up"]


def test_a_host_whose_release_is_watched_is_a_canary():
    assert names(DRAINED, CANARY, SILENT, READY, CANARY, DRAINED) == [
        "drained",
        "canary",
        "canary",
        "up",
        "canary",
        "drained",
    ]


@pytest.mark.parametrize("failure", [SILENT, BUSY, checker.Answer(500), checker.Answer(404), checker.Answer(301)])
def test_a_host_is_down_after_the_second_failure_and_up_after_one_answer(failure):
    assert names(failure, failure, failure, READY) == ["up", "down", "down", "up"]


def test_failures_with_an_answer_between_do_not_add_up():
    assert names(SILENT, READY, SILENT, READY) == ["up"] * 4


def test_a_drained_host_that_stops_answering_stays_drained_and_then_is_down():
    assert names(DRAINED, SILENT, SILENT, DRAINED) == ["drained", "drained", "down", "drained"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"ready": true, "reasons": ["x"]}', '{"ready": false}', '{"ready": false, "reasons": []}']
)
def test_a_503_that_gives_no_reason_is_a_failure(text):
    assert names(checker.Answer(503, text), checker.Answer(503, text)) == ["up", "down"]


def ready(release: str, deploy: int | None = None):
    return checker.Answer(200, json.dumps({"ready": True, "release": release, "deploy": deploy}))


@pytest.mark.parametrize(
    ("web1", "web2", "web3", "late"),
    [
        # A deploy under way: nobody has finished it.
        (ready("b", 1), ready("a", 1), ready("a", 1), set()),
        # Finished, as one host after another records it.
        (ready("b", 2), ready("b", 1), ready("b", 1), set()),
        # web3 was down meanwhile.
        (ready("b", 2), ready("b", 2), ready("a", 1), {"web3"}),
        # ... and for the next one, too; or for one that went back to what it runs.
        (ready("c", 2), ready("b", 2), ready("a", 1), {"web3"}),
        (ready("a", 3), ready("a", 3), ready("a", 1), set()),
        # A new host has taken part in none.
        (ready("b", 2), ready("b", 2), ready("b"), set()),
        # Without the others its release is better than none.
        (SILENT, DRAINED, ready("a", 1), set()),
        (checker.Answer(200, "[]"), checker.Answer(200, "page"), ready("a", 1), set()),
    ],
)
def test_a_host_that_missed_a_deploy_stays_out(web1, web2, web3, late):
    assert checker.outdated({"web1": web1, "web2": web2, "web3": web3}) == late


ANSWERS: dict[str, tuple[int, str]] = {}
TOLD: list[dict] = []
ASKED: list[str | None] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ASKED.append(self.headers["X-Trestle-Pool"])
        status, text = ANSWERS["ready"]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        TOLD.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_round_asks_every_backend_and_forgets_those_that_left(server):
    backend = {"host": "web1", "address": "127.0.0.1", "port": server.server_port}
    ANSWERS["ready"] = (DRAINED.status, DRAINED.text)
    with ThreadPoolExecutor() as executor:
        before = {("blog", "gone"): checker.State("down", 5)}
        after = checker.check({"blog": [backend]}, before, executor)
    assert {key: state.name for key, state in after.items()} == {("blog", "web1"): "drained"}


def test_a_host_is_told_how_it_is_in_the_pool_and_how_many_others_serve(server):
    hosts = {"web1": "canary", "web2": "up", "web3": "down", "web4": "outdated"}
    before = {("blog", host): checker.State(name) for host, name in hosts.items()} | {("shop", "web9"): checker.State()}
    ASKED.clear()
    with ThreadPoolExecutor() as executor:
        for heard in (True, False):
            pool = {"blog": [{"host": "web1", "address": "127.0.0.1", "port": server.server_port}]}
            checker.check(pool, before, executor, heard)
        checker.check({"new": pool["blog"]}, before, executor, True)
    assert ASKED == ["canary 2/3", None, None]


@pytest.mark.parametrize(
    ("before", "after", "soon"),
    [
        ({}, {"web1": checker.State("up")}, False),
        ({}, {"web1": checker.State("drained")}, True),
        ({"web1": checker.State("drained")}, {"web1": checker.State("up")}, True),
        ({"web1": checker.State("up", 0)}, {"web1": checker.State("up", 1)}, False),
        ({}, {"web1": checker.State("drained"), "web2": checker.State("up", 1)}, False),
        ({}, {"web1": checker.State("drained"), "web2": checker.State("down", 9)}, True),
        ({"web1": checker.State("up"), "gone": checker.State("up")}, {"web1": checker.State("up")}, False),
    ],
)
def test_a_round_that_changed_anything_is_followed_by_another_soon(before, after, soon):
    assert (checker.pause(before, after) < checker.PERIOD_SECONDS / 2) == soon


def test_nobody_there_is_a_failure_and_not_an_error():
    with ThreadPoolExecutor() as executor:
        pool = {"blog": [{"host": "web1", "address": "127.0.0.1", "port": 1}]}
        states = checker.check(pool, checker.check(pool, {}, executor), executor)
    assert states[("blog", "web1")].name == "down"


def test_the_whole_pool_is_told(server, monkeypatch, tmp_path):
    lock = tmp_path / "run-lock"
    monkeypatch.setattr(checker, "NGINX", ("127.0.0.1", server.server_port))
    monkeypatch.setattr(checker, "RUN_LOCK", lock)
    TOLD.clear()
    checker.tell({("blog", "web1"): checker.State("up"), ("blog", "web2"): checker.State("down")}, perlbal="up")
    lock.touch()
    checker.tell({})
    assert TOLD == [
        {"blog": {"web1": "up", "web2": "down"}, "perlbal": {"steered": "up"}, "run": {"under way": "down"}},
        {"perlbal": {"steered": "down"}, "run": {"under way": "up"}},
    ]


POOL = {
    "my-site": [{"host": f"web{number}", "address": f"192.0.2.{number}", "port": 8100} for number in (1, 2, 3)],
}


@pytest.mark.parametrize(
    ("names", "has", "commands"),
    [
        ("up up up", "123", []),
        ("up drained down", "123", ["remove 192.0.2.2:8100", "remove 192.0.2.3:8100"]),
        ("up up up", "2", ["add 192.0.2.1:8100", "add 192.0.2.3:8100"]),
        # A canary gets its requests past Perlbal, unless there is nobody else.
        ("up canary outdated", "123", ["remove 192.0.2.2:8100", "remove 192.0.2.3:8100"]),
        ("down canary down", "13", ["add 192.0.2.2:8100", "remove 192.0.2.1:8100", "remove 192.0.2.3:8100"]),
        ("down down down", "1", ["remove 192.0.2.1:8100"]),
    ],
)
def test_perlbal_s_pool_is_what_is_up(monkeypatch, names, has, commands):
    told = []

    def answer(*lines):
        if lines[0].startswith("show"):
            return [f"192.0.2.{number}:8100 7" for number in has] + ["."]
        told.extend(lines)

    monkeypatch.setattr(checker, "perlbal", answer)
    states = {("my-site", f"web{number}"): checker.State(name) for number, name in enumerate(names.split(), 1)}
    checker.steer(POOL, states)
    assert told == [f"pool my_site {command}" for command in commands]


def test_what_perlbal_refuses_is_an_error(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(checker, "PERLBAL", listener.getsockname())

        def refuse():
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(99) == b"pool x add 192.0.2.1:80\nquit\n"
                connection.sendall(b"ERROR: Pool 'x' not found\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        with pytest.raises(OSError, match="not found"):
            checker.perlbal("pool x add 192.0.2.1:80")
