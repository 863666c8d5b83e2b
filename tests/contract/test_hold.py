"""What a change of the primary waits for: web hosts that have answered, and pgpools that know the new one."""

from __future__ import annotations

import http.server
import importlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import programs
import pytest

BALANCER = programs.ROLES / "load_balancer/files"


@pytest.fixture
def balancer(monkeypatch):
    monkeypatch.syspath_prepend(BALANCER)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return importlib.import_module("await_answers")


@pytest.fixture
def gunicorn():
    """A server in gunicorn's place, that takes the next of ``counts`` for its requests under way."""
    counts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/health/live"
            self.send_response(200)
            self.end_headers()
            count = counts.pop(0) if len(counts) > 1 else counts[0]
            self.wfile.write(json.dumps({"requests": {"under_way": count}} if count is not None else []).encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.counts = counts
        yield server
        server.shutdown()


@pytest.fixture
def wait(balancer, gunicorn, tmp_path, monkeypatch):
    """wait(counts, seconds): for how long it waited."""
    pool = {"shop": [{"address": "127.0.0.1", "port": gunicorn.server_port}, {"address": "127.0.0.1", "port": 1}]}
    (tmp_path / "pool.json").write_text(json.dumps(pool))
    monkeypatch.setattr(balancer, "POOL_FILE", tmp_path / "pool.json")
    monkeypatch.setattr(balancer, "PERIOD_SECONDS", 0.05)

    def run(counts: list, seconds: float) -> float:
        gunicorn.counts[:] = counts
        begun = time.monotonic()
        balancer.main(seconds)
        return time.monotonic() - begun

    return run


def test_it_waits_until_twice_nothing_is_under_way(wait, gunicorn, capsys):
    wait([2, 1, 0, 1, 0, 0, 9], 5)
    assert gunicorn.counts == [9] and capsys.readouterr().out == ""


def test_it_waits_no_longer_than_it_may(wait, capsys):
    assert 0.3 < wait([3], 0.3) < 5
    assert capsys.readouterr().out == "after 0.3 s 3 requests are not answered\n"


def test_a_wrapper_that_counts_nothing_is_not_waited_for(wait, balancer):
    assert wait([None], 20) < 10
    with ThreadPoolExecutor() as executor:
        assert balancer.under_way([], executor) == 0


@pytest.fixture
def pgpool(tmp_path, monkeypatch):
    """The program, a check that exits with what is in a file, and the file of the follower's last look."""
    program = programs.load("pgpool", "pgpool-await")
    check = tmp_path / "check"
    check.write_text(f"#!/bin/sh\necho primary None\nexit $(cat {tmp_path}/code)\n")
    check.chmod(0o755)
    monkeypatch.setattr(program, "CHECK", str(check))
    monkeypatch.setattr(program, "STATE", tmp_path / "follower.json")

    def look(seconds: float, code: int, primary: str = "") -> None:
        (tmp_path / "code").write_text(str(code))
        program.STATE.write_text(json.dumps({"time": time.time() + seconds, "primary": primary}))

    program.look = look
    return program


@pytest.mark.parametrize(
    ("code", "wanted", "status"), [(0, [], 0), (1, [], 0), (2, [], 1), (0, ["whole"], 0), (1, ["whole"], 1)]
)
def test_a_standby_that_is_missing_matters_where_all_are_wanted(pgpool, code, wanted, status, capsys):
    pgpool.look(60, code)
    assert pgpool.main("0.2", *wanted) == status
    assert capsys.readouterr().err == ("pgpool after 0.2 s: primary None\n" if status else "")


def test_what_the_follower_saw_before_does_not_count(pgpool):
    pgpool.look(0.5, 0)
    assert pgpool.main("0.2") == 1
    threading.Timer(0.2, pgpool.look, (20, 0)).start()
    assert pgpool.main("10") == 0


def test_the_new_primary_is_waited_for_and_not_for_another_look_at_it(pgpool):
    pgpool.look(0, 0, "10.0.0.2")
    assert pgpool.main("0.2", "10.0.0.1") == 1
    threading.Timer(0.2, pgpool.look, (0, 1, "10.0.0.1")).start()
    began = time.monotonic()
    assert pgpool.main("10", "10.0.0.1") == 0
    assert time.monotonic() - began < pgpool.LOOK_SECONDS
