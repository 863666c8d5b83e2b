"""patroni-wake: the end of PostgreSQL's first process is told to Patroni at once, and changes none of its settings."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from programs import load


@pytest.fixture
def program():
    return load("postgresql", "patroni-wake")


@pytest.fixture
def patroni():
    """What stands at Patroni's address: what it is asked, and when."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((time.monotonic(), self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


@pytest.fixture
def watched(program, patroni, tmp_path):
    """A process that stands for PostgreSQL's first one, and the program beside it."""
    port, asked = patroni
    configuration = tmp_path / "config.yml"
    login = {"username": "patroni", "password": "pass:word"}
    configuration.write_text(
        yaml.safe_dump(
            {
                "restapi": {"connect_address": f"127.0.0.1:{port}", "authentication": login},
                "postgresql": {"data_dir": str(tmp_path)},
            }
        )
    )
    process = subprocess.Popen(["sleep", "60"])
    (tmp_path / "postmaster.pid").write_text(f"{process.pid}\n{tmp_path}\n")
    with subprocess.Popen([program.__file__, str(configuration)], stdout=subprocess.PIPE, text=True) as watcher:
        time.sleep(0.7)
        yield process, asked, watcher
        watcher.kill()
    process.kill()
    process.wait()


def test_patroni_is_woken_when_the_first_process_is_killed_and_not_before(watched):
    process, asked, watcher = watched
    assert not asked
    killed = time.monotonic()
    process.kill()
    process.wait()
    assert f"({process.pid}) has ended: Patroni was woken" in watcher.stdout.readline()
    [(when, path, login, body)] = asked
    assert when - killed < 1 and path == "/config"
    assert base64.b64decode(login.removeprefix("Basic ")) == b"patroni:pass:word"
    # No value: that takes a setting away, and there is none of that name.
    assert list(body.values()) == [None]


def test_patroni_is_not_woken_while_it_would_take_the_dead_one_for_one_that_runs(watched):
    """A zombie, until its parent has been told of its end: Patroni would look, see nothing, and look again in 10 s."""
    process, asked, watcher = watched
    process.kill()
    time.sleep(0.7)
    assert not asked
    told = time.monotonic()
    process.wait()
    watcher.stdout.readline()
    assert [1 for when, *_ in asked if when - told < 1]


def test_a_patroni_that_is_gone_too_is_no_end_of_it(watched, tmp_path):
    process, _, watcher = watched
    configuration = tmp_path / "config.yml"
    settings = yaml.safe_load(configuration.read_text())
    settings["restapi"]["connect_address"] = "127.0.0.1:1"
    configuration.write_text(yaml.safe_dump(settings))
    process.kill()
    process.wait()
    assert "Patroni was not woken" in watcher.stdout.readline()
    assert watcher.poll() is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("123\n/var/lib\n", 123), ("-123\n/var/lib\n", None), ("", None), ("none\n", None)],
)
def test_only_a_server_counts(program, tmp_path, text, number):
    (tmp_path / "postmaster.pid").write_text(text)
    assert program.postmaster(tmp_path) == number


def test_without_a_file_there_is_none(program, tmp_path):
    assert program.postmaster(tmp_path) is None
    # A number that nobody has: of 22 bits at most.
    assert not program.wait_for_its_end(2**22 + 1)
