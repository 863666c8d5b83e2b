"""The memory watcher's decisions, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import programs
import pytest

MB = 2**20
# A parent that keeps one child, as gunicorn does; the child holds 60 MB more than it, and says when it has them.
PARENT = """
import subprocess, sys
while True:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    child.wait()
"""
# Where the tests were started in the background, SIGINT is ignored, and so it would be here.
CHILD = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "held = b'x' * (60 * 2**20); print('ready', flush=True); time.sleep(60)"
)
DEAF = f"import signal; signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True)); {CHILD}"
PROGRAM = {"name": "worker", "memory_limit": 40 * MB, "stop_signal": "INT", "stop_wait_seconds": 30}


@pytest.fixture(scope="module")
def watch():
    return programs.load("gunicorn", "memory-limit")


@pytest.fixture
def start():
    """start(code...): a process of its own group, as supervisor makes them, that is ready."""
    started = []

    def run(*code: str) -> subprocess.Popen:
        command = [sys.executable, "-c", *code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def look(watch, process, **changes):
    """What is above its limit of one running program."""
    entry = {"group": "shop", "name": "shop-worker", "pid": process.pid}
    return list(watch.excesses([entry], {"shop": [PROGRAM | changes]}, watch.processes()))


def children(watch, process) -> list[int]:
    return [p.pid for p in watch.tree(watch.processes(), process.pid) if p.pid != process.pid]


def test_a_child_above_the_limit_is_ended_and_its_parent_replaces_it(watch, start):
    parent = start(PARENT, CHILD)
    (child,) = children(watch, parent)
    (excess,) = found = look(watch, parent)
    assert (excess.process.pid, excess.main) == (child, False)
    assert 60 * MB < excess.process.rss < 120 * MB
    watch.Watcher().act(found, 0)
    assert parent.stdout.readline() == "ready\n"
    assert parent.poll() is None and children(watch, parent) != [child]


def test_a_program_s_own_process_gets_the_program_s_signal(watch, start):
    process = start(CHILD)
    (excess,) = found = look(watch, process)
    assert excess.main
    watch.Watcher().act(found, 0)
    assert process.wait(10) == -signal.SIGINT


def test_what_is_within_its_limit_or_has_none_is_left_alone(watch, start):
    process = start(CHILD)
    assert not look(watch, process, memory_limit=500 * MB)
    assert not look(watch, process, memory_limit=0)
    assert not look(watch, process, name="other")


def test_a_process_is_asked_once_and_killed_where_it_does_not_listen(watch, start):
    parent = start(PARENT, DEAF)
    (child,) = children(watch, parent)
    watcher = watch.Watcher()
    for now in (0, 5, 30):
        watcher.act(look(watch, parent), now)
    assert parent.stdout.readline() == "asked\n" and children(watch, parent) == [child]
    watcher.act(look(watch, parent), 31)
    assert parent.stdout.readline() == "ready\n", "asked a second time"
    assert children(watch, parent) != [child]


def test_the_processes_of_a_program_end_one_after_another(watch, start):
    one, two = start(CHILD), start(CHILD)
    entries = [{"group": "shop", "name": f"shop-worker-{n}", "pid": p.pid} for n, p in enumerate((one, two))]

    def found():
        return list(watch.excesses(entries, {"shop": [PROGRAM]}, watch.processes()))

    watcher = watch.Watcher()
    assert len(found()) == 2
    watcher.act(found(), 0)
    assert one.wait(10) == -signal.SIGINT
    time.sleep(0.1)
    assert two.poll() is None
    watcher.act(found(), 5)
    assert two.wait(10) == -signal.SIGINT
