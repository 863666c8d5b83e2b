"""A page that breaks because the database is away is asked for again, once it is back; nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import postgres
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "roles/gunicorn/files/usr/local/lib/trestle/python"
SECONDS = 4


@pytest.fixture(scope="module")
def server():
    with postgres.cluster() as folder:
        yield folder


@pytest.fixture(scope="module")
def process(server):
    command = [sys.executable, Path(__file__).parent / "patience_driver.py", server, str(SECONDS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(LIBRARY)}, **pipes) as started:
        assert started.stdout.readline() == "ready\n"
        yield started
        started.stdin.close()


class Question:
    """What was asked, and how long the answer took."""

    def __init__(self, process, method: str, path: str, attempt: str):
        self.process, self.began = process, time.monotonic()
        process.stdin.write(f"{method} {path} {attempt}\n")
        process.stdin.flush()

    def answer(self) -> tuple[int, str, int, float]:
        status, text, times = json.loads(self.process.stdout.readline())
        return status, text, times, time.monotonic() - self.began


@pytest.fixture
def ask(process):
    return lambda method, path, attempt="last": Question(process, method, path, attempt)


@pytest.fixture
def away(server):
    postgres.stop(server)
    yield
    postgres.start(server)


@pytest.mark.parametrize("path", ["page", "wrapped"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_waits_for_the_database_and_is_made_then(server, ask, path, method):
    """The connection is one that was open, and broke."""
    assert ask(method, path).answer()[0] == 200
    postgres.stop(server)
    try:
        question = ask(method, path)
        time.sleep(1.5)
    finally:
        postgres.start(server)
    status, _, times, seconds = question.answer()
    assert (status, times) == (200, 2) and seconds > 1.4, (status, times, seconds)


def test_it_waits_so_long_and_then_answers_as_it_did(ask, away):
    status, _, times, seconds = ask("GET", "page").answer()
    assert (status, times) == (500, 1) and SECONDS <= seconds < SECONDS + 2


def test_what_may_not_be_repeated_is_not(ask, away):
    status, _, times, seconds = ask("POST", "page").answer()
    assert (status, times) == (500, 1) and seconds < 1


def test_where_another_host_can_be_asked_yet_it_is(ask, away):
    status, text, times, seconds = ask("GET", "page", "first").answer()
    assert (status, text, times) == (502, "", 1) and seconds < 1


def test_a_wrong_statement_is_the_project_s_own_fault(ask):
    status, _, times, seconds = ask("GET", "wrong").answer()
    assert (status, times) == (500, 1) and seconds < 1


def test_a_session_that_the_server_ends_is_begun_again_but_once(ask):
    status, _, times, seconds = ask("GET", "ended").answer()
    assert (status, times) == (500, 2) and seconds < 1
