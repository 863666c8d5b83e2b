"""The wrapper that runs a program on one host at a time, with a stand-in for the driver: its lock is a file's.

What PostgreSQL and pgpool make of it is tested on the lab (tests/behaviour/test_programs.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

DRIVER = """
import fcntl, os, time

class Error(Exception):
    pass

class connect:
    def __init__(self, host, dbname, application_name, **_):
        assert (host, dbname) == ("127.0.0.1", "shop")
        self.file = open(os.environ["LOCKS"] + "/" + application_name, "w")
        self.cut, self.hang = os.environ["LOCKS"] + "/cut", os.environ["LOCKS"] + "/hang"

    def cursor(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def execute(self, query, values):
        while os.path.exists(self.hang):
            time.sleep(0.1)
        if os.path.exists(self.cut):
            raise Error("server closed the connection")
        assert query.startswith("/*NO LOAD BALANCE*/ SELECT")
        if "pg_try_advisory_lock" in query:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.row = [True]
            except BlockingIOError:
                self.row = [False]
        else:
            self.row = [1]

    def fetchone(self):
        return self.row

    def close(self):
        self.file.close()
"""

# The wrapper with short intervals.
HURRIED = f"""
import sys
sys.path.insert(0, {str(Path(programs.__file__).parent)!r})
import programs
once = programs.load("gunicorn", "site-once")
once.RETRY_SECONDS, once.CHECK_SECONDS, once.PATIENCE_SECONDS = 0.2, 0.1, 0.5
sys.exit(once.main())
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "psycopg.py").write_text(DRIVER)
    return tmp_path


@pytest.fixture
def once(folder):
    """once(command...): the wrapper around a command, with pipes."""
    started = []

    def run(*command: str, url: str = "postgres://shop:pass%40word@127.0.0.1:5432/shop") -> subprocess.Popen:
        environment = os.environ | {"PYTHONPATH": str(folder), "LOCKS": str(folder), "DATABASE_URL": url}
        process = subprocess.Popen(
            [sys.executable, "-c", HURRIED, "--stop-wait", "2", "shop-clock", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def line(process) -> str:
    return process.stdout.readline().strip()


RUNS = ("sh", "-c", "echo $$; exec sleep 60")


def alive(pid: str) -> bool:
    return os.path.exists(f"/proc/{pid}")


def gone(pid: str) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_the_command_s_status_is_the_wrapper_s(once):
    assert once("sh", "-c", "exit 7").wait(10) == 7
    assert once("sh", "-c", "kill -KILL $$").wait(10) == 128 + signal.SIGKILL


def test_another_takes_over_when_the_first_ends(once):
    first = once(*RUNS)
    pid = line(first)
    second = once(*RUNS)
    assert "another host has the lock" in second.stderr.readline()
    first.terminate()
    assert first.wait(10) == 128 + signal.SIGTERM and gone(pid)
    assert alive(line(second))


def test_a_signal_is_the_program_s_to_answer(once):
    process = once("sh", "-c", "trap 'echo stopping; exit 3' INT; echo ready; while :; do sleep 0.1; done")
    assert line(process) == "ready"
    process.send_signal(signal.SIGINT)
    assert line(process) == "stopping"
    assert process.wait(10) == 3


@pytest.mark.parametrize("database", ["cut", "hang"])
def test_nothing_runs_on_when_the_lock_is_lost(once, folder, database):
    process = once(*RUNS)
    pid = line(process)
    (folder / database).touch()
    assert process.wait(10) == 1 and gone(pid)
    assert "has lost the lock" in process.stderr.read()


def test_what_does_not_stop_is_killed_when_the_lock_is_lost(once, folder):
    process = once("sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done")
    pid = line(process)
    (folder / "cut").touch()
    assert process.wait(10) == 1 and gone(pid)


def test_nothing_runs_on_when_the_wrapper_is_killed(once):
    process = once(*RUNS)
    pid = line(process)
    process.kill()
    assert gone(pid)


def test_it_waits_for_a_database_that_does_not_answer(once, folder):
    (folder / "cut").touch()
    process = once(*RUNS)
    assert "the database does not answer: server closed the connection" in process.stderr.readline()
    (folder / "cut").unlink()
    assert alive(line(process))


def test_it_says_that_it_needs_postgresql(once):
    process = once(*RUNS, url="sqlite:///db.sqlite3")
    assert process.wait(10) == 1
    assert process.stderr.read() == "site-once: shop-clock has `once`, which needs a DATABASE_URL of PostgreSQL.\n"
