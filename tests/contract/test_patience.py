"""A page that breaks because the database is away is asked for again, once it is back; nothing else is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
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

    def __init__(self, process, method: str, path: str, attempt: str, threads: int):
        self.process, self.began = process, time.monotonic()
        process.stdin.write(f"{method} {path} {attempt} {threads}\n")
        process.stdin.flush()

    def answers(self) -> tuple[list[int], list[str], int, float]:
        statuses, texts, times = json.loads(self.process.stdout.readline())
        return statuses, texts, times, time.monotonic() - self.began

    def answer(self) -> tuple[int, str, int, float]:
        (status,), (text,), times, seconds = self.answers()
        return status, text, times, seconds


@pytest.fixture
def ask(process):
    return lambda method, path, attempt="last", threads=1: Question(process, method, path, attempt, threads)


@pytest.fixture
def away(server):
    postgres.stop(server)
    yield
    postgres.start(server)


@pytest.fixture
def refusals(server, away):
    """How often a server that takes nobody was asked so far."""
    seen = []
    path = Path(server, ".s.PGSQL.5432")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def refuse():
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return
                seen.append(time.monotonic())

        thread = threading.Thread(target=refuse)
        thread.start()
        yield lambda: len(seen)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink()


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


THREADS = 8


def test_many_pages_that_wait_ask_no_more_often_than_one(ask, refusals):
    """A cluster that is about to have a primary again has better things to do."""
    statuses, _, times, _ = ask("GET", "page", threads=THREADS).answers()
    assert (statuses, times) == ([500] * THREADS, THREADS)
    # Each was refused once itself.
    assert SECONDS <= refusals() - THREADS <= 2 * SECONDS + 1


def test_all_pages_that_wait_are_made_soon_after_the_primary_is_there(server, ask):
    postgres.stop(server)
    try:
        question = ask("GET", "page", threads=THREADS)
        time.sleep(1.5)
    finally:
        postgres.start(server)
    there = time.monotonic()
    statuses, _, times, seconds = question.answers()
    assert (statuses, times) == ([200] * THREADS, 2 * THREADS), (statuses, times)
    assert question.began + seconds - there < 1.5
