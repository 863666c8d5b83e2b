"""What keepalived is told of its balancer: roles/keepalived/files/keepalived_helper.py."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "roles/keepalived/files/keepalived_helper.py"
spec = importlib.util.spec_from_file_location("keepalived_helper", FILE)
helper = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = helper
spec.loader.exec_module(helper)


@pytest.mark.parametrize(
    ("answers", "changes"),
    [
        ("1", "1"),  # a start: what is good serves at once
        ("0", "-"),
        ("00", "-0"),
        ("01", "--"),
        ("011", "--1"),
        ("1011", "1---"),  # once is chance
        ("1001011", "1-0---1"),
    ],
)
def test_a_check_is_believed_when_it_has_said_so_twice(answers, changes):
    verdict = helper.Verdict()
    heard = [str(int(verdict.said)) if verdict.changes(answer == "1") else "-" for answer in answers]
    assert "".join(heard) == changes


@pytest.mark.parametrize(
    ("status", "good"), [("HTTP/1.1 200 OK", True), ("HTTP/1.1 503 No", False), ("", False), (None, False)]
)
def test_an_nginx_that_listens_has_to_answer(monkeypatch, status, good):
    monkeypatch.setattr(helper, "NGINX_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                if status is None:
                    connection.recv(1)
                else:
                    connection.sendall(f"{status}\r\n\r\n".encode() if status else b"")

        thread = threading.Thread(target=answer)
        thread.start()
        assert asyncio.run(helper.nginx_answers(server.getsockname()[1])) is good
        thread.join(5)


def test_an_nginx_that_does_not_listen_is_bad():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert asyncio.run(helper.nginx_answers(port)) is False


@pytest.mark.parametrize(("program", "good"), [("exit 0", True), ("exit 1", False), ("exec sleep 60", False)])
def test_who_hears_of_nobody_in_time_is_cut_off(monkeypatch, tmp_path, program, good):
    monkeypatch.setattr(helper, "PING_SECONDS", 0.5)
    asked = "--quiet --reachable=1 --retry=0 --timeout=500 a b"
    (tmp_path / "fping").write_text(f'#!/bin/sh\ntest "$*" = "{asked}" || exit 1\n{program}\n')
    (tmp_path / "fping").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert asyncio.run(helper.anyone_answers(["a", "b"], 500)) is good


@pytest.mark.parametrize(
    ("lines", "before", "after"),
    [
        (b'INSTANCE "floating_address" MASTER 100\n', False, True),
        (b'INSTANCE "floating_address" BACKUP 100\n', True, False),
        (b'INSTANCE "floating_address" FAULT 100\n', True, False),
        (b'INSTANCE "floating_address" MASTER_PRIORITY 200\n', True, True),
        (b'INSTANCE "floating_address" BACKUP 100\nINSTANCE "floating_address" MASTER 100\n', False, True),
        (b"\n", True, True),
    ],
)
def test_only_a_change_of_its_state_makes_a_master_new_or_old(lines, before, after):
    assert helper.is_new(lines, before) is after


def test_a_new_master_is_one_for_some_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(helper, "FOLDER", tmp_path)
    os.mkfifo(tmp_path / helper.EVENTS)

    async def said(wanted: str) -> None:
        async with asyncio.timeout(5):
            while (tmp_path / helper.NEW_MASTER).read_text() != wanted:
                await asyncio.sleep(0.01)

    async def story() -> float:
        marking = asyncio.create_task(helper.mark_new_masters(0.5))
        await asyncio.sleep(0.1)
        await said("0\n")
        clock = asyncio.get_running_loop().time
        for _ in range(2):  # a keepalived that ends and comes again is heard too
            with (tmp_path / helper.EVENTS).open("w") as events:
                events.write('INSTANCE "floating_address" MASTER 100\n')
            began = clock()
            await said("100\n")
            await said("0\n")
        marking.cancel()
        return clock() - began

    assert 0.4 < asyncio.run(story()) < 3
