"""Runs of Ansible during the tests, and what is watched meanwhile: the front door and the lists of processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import requests

from lab.demo import BIN, RECAP, ROOT, to_be_read

# The exit status of a run that went well, but for hosts that are down.
DOWN_STATUS = 3


def start(env_name: str, *arguments: str, fast: bool = False, **environment: str) -> subprocess.Popen:
    """A run against the environment's lab that goes on, with what it says as its stdout; fast: by the accelerator."""
    command = [str(BIN / "ansible-playbook"), "-i", env_name, "-i", "lab", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=to_be_read(fast) | environment, **pipes)


def ansible_playbook(env_name: str, *arguments: str, fast: bool = False) -> subprocess.CompletedProcess:
    """A run against the environment's lab, with what it said."""
    with start(env_name, *arguments, fast=fast) as process:
        said = process.communicate()[0]
    return subprocess.CompletedProcess(process.args, process.returncode, said)


class Reached:
    """A run that is stopped where it begins a task, for the nth time; with all its processes where it is killed."""

    def __init__(self, env_name: str, *arguments: str, task: str, nth: int = 1):
        # Where skipped tasks are not shown, a task is shown with its first result only.
        self.process, self.said = start(env_name, *arguments, ANSIBLE_DISPLAY_SKIPPED_HOSTS="true"), ""
        for line in self.process.stdout:
            self.said += line
            nth -= line.startswith("TASK [") and line.rstrip("* \n").removesuffix("]").endswith(task)
            if nth == 0:
                return
        raise AssertionError(f"the run ended before {task!r}:\n{self.said[-4000:]}")

    def kill(self) -> None:
        """As if the controller were gone: neither a worker nor a connection of the run is left."""
        main = psutil.Process(self.process.pid)
        for process in [main, *main.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.said += self.process.communicate()[0]
        return self.process.returncode


def recap(output: str) -> dict[str, dict[str, int]]:
    names = ("ok", "changed", "unreachable", "failed")
    return {m[1]: dict(zip(names, map(int, m.groups()[1:]), strict=True)) for m in RECAP.finditer(output)}


def tasks_done(output: str) -> list[str]:
    """Every task that was not skipped; the list of the slowest ones at the end of a run names the others too."""
    return re.findall(r"^TASK \[(?:\S+ : )?(.+)\] \**$", output, re.MULTILINE)


def changes(output: str) -> list[str]:
    """Every task that changed a host, with the host."""
    task, found = "", []
    for line in output.splitlines():
        if line.startswith(("TASK [", "RUNNING HANDLER [")):
            task = line.rstrip(" *")
        elif line.startswith("changed: ["):
            found.append(f"{line} {task}")
    return found


def wait(seconds: float, true, period: float = 0.1) -> bool:
    """Whether it comes true within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(period)
    return False


class _Watch:
    """Something that is looked at again and again while a block runs."""

    period = 0.0

    def __enter__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self.look()


class Visitor(_Watch):
    """Asks for a page four times a second, and notes when it was not served within so many seconds."""

    period = 0.25

    def __init__(self, front, url: str, patience: float = 5):
        self.front, self.url, self.patience = front, url, patience
        self.served, self.failures, self.slowest = 0, [], 0.0

    def look(self) -> None:
        began = time.monotonic()
        try:
            with self.front.session() as session:
                answer = str(session.get(self.url, timeout=self.patience).status_code)
        except requests.RequestException as error:
            answer = type(error).__name__
        self.slowest = max(self.slowest, time.monotonic() - began)
        if answer == "200":
            self.served += 1
        else:
            self.failures.append(f"{time.strftime('%H:%M:%S')} {answer}")


def steady(front, url: str, seconds: float = 5) -> bool:
    """Whether the page is served for some seconds on end."""
    visitor = Visitor(front, url)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not visitor.failures:
        visitor.look()
        time.sleep(0.2)
    return not visitor.failures


class Knocks(_Watch):
    """Asks one address for anything, fifty times a second, anew each time; ``longest`` is the time without one."""

    period = 0.02

    def __init__(self, address: str, name: str):
        self.address, self.longest, self.last = address, 0.0, time.monotonic()
        self.question = f"HEAD / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode()

    def look(self) -> None:
        try:
            with socket.create_connection((self.address, 80), timeout=0.2) as connection:
                connection.sendall(self.question)
                if not connection.recv(16).startswith(b"HTTP/"):
                    return
        except OSError:
            return
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now


class ProcessLists(_Watch):
    """The command line of every process that was seen: this machine's list holds the containers' too."""

    period = 0.02

    def __init__(self):
        self.seen: set[bytes] = set()
        self._known: dict[str, int] = {}

    def look(self) -> None:
        numbers = [name for name in os.listdir("/proc") if name.isdigit()]
        known = {number: self._known.get(number, 0) for number in numbers}
        for number in numbers:
            if known[number] < 3:  # it becomes another program soon after it was forked, or never
                known[number] += 1
                try:
                    self.seen.add(Path("/proc", number, "cmdline").read_bytes())
                except OSError:
                    continue
        self._known = known
