#!/usr/bin/python3
# Ansible managed: role keepalived
"""Tells keepalived whether this balancer is fit for the floating address, and who is new to it.

    keepalived_helper.py --check-seconds 0.3 --network-ms 500 --new-seconds 10 NEIGHBOUR...

keepalived could run these checks itself, but would fork for each. On a busy machine a fork can take most of a second;
its advertisements wait meanwhile, and another balancer takes the address. So it reads files, and never forks.
"""

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

# keepalived's configuration names these too. 0 is good.
FOLDER, EVENTS = Path("/run"), "keepalived-events"
NGINX, NETWORK, NEW_MASTER = "keepalived-nginx", "keepalived-network", "keepalived-new-master"
STATUS = b"GET /nginx_status HTTP/1.0\r\n\r\n"
NGINX_SECONDS, NETWORK_CHECK_SECONDS, PING_SECONDS = 1.0, 1.0, 2.0
# Added to the priority of one that has just taken the address.
NEW = 100
# keepalived tells of other things than its state too.
STATES = (b"MASTER", b"BACKUP", b"FAULT", b"STOP")


class Verdict:
    """What a check says, once it has said so twice in a row; a first good one will do."""

    def __init__(self):
        self.before = self.said = None

    def changes(self, good: bool) -> bool:
        is_sure = good == self.before or (good and self.before is None)
        self.before = good
        if not is_sure or good == self.said:
            return False
        self.said = good
        return True


def write(name: str, value: int) -> None:
    (FOLDER / name).write_text(f"{value}\n")


async def watch(name: str, is_good: Callable[[], Awaitable[bool]], seconds: float) -> None:
    verdict = Verdict()
    while True:
        began = time.monotonic()
        if verdict.changes(await is_good()):
            write(name, 0 if verdict.said else 1)
            print(f"{name}: {'good' if verdict.said else 'bad'}", flush=True)
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))


async def nginx_answers(port: int = 8080) -> bool:
    """A process that exists may still serve nothing."""
    try:
        async with asyncio.timeout(NGINX_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                writer.write(STATUS)
                return (await reader.readline()).split()[1:2] == [b"200"]
    except OSError:
        return False


async def anyone_answers(neighbours: list[str], milliseconds: int) -> bool:
    """Whom nobody answers is cut off: it must neither take the address nor still have it when the network is back."""
    options = ["--quiet", "--reachable=1", "--retry=0", f"--timeout={milliseconds}"]
    quiet = asyncio.subprocess.DEVNULL
    ping = await asyncio.create_subprocess_exec("fping", *options, *neighbours, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(PING_SECONDS):
            return await ping.wait() == 0
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            ping.kill()
        await ping.wait()
        return False


async def mark_new_masters(seconds: float) -> None:
    """Of two masters, as after a cut too short to be noticed, the one that took the address last keeps it."""
    events: asyncio.Queue[bytes] = asyncio.Queue()
    # Open for writing too, or it would be at its end whenever keepalived is not there.
    pipe = os.open(FOLDER / EVENTS, os.O_RDWR | os.O_NONBLOCK)
    asyncio.get_running_loop().add_reader(pipe, lambda: events.put_nowait(os.read(pipe, 4096)))
    new = False
    while True:
        write(NEW_MASTER, NEW if new else 0)
        try:
            async with asyncio.timeout(seconds if new else None):
                new = is_new(await events.get(), new)
        except TimeoutError:
            new = False


def is_new(lines: bytes, new: bool) -> bool:
    """After what keepalived says: INSTANCE "floating_address" MASTER 100"""
    for words in map(bytes.split, lines.splitlines()):
        if words[2:3] and words[2] in STATES:
            new = words[2] == b"MASTER"
    return new


async def main(options: argparse.Namespace) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(mark_new_masters(options.new_seconds))
        tasks.create_task(watch(NGINX, nginx_answers, options.check_seconds))
        tasks.create_task(
            watch(NETWORK, lambda: anyone_answers(options.neighbours, options.network_ms), NETWORK_CHECK_SECONDS)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check-seconds", type=float, required=True)
    parser.add_argument("--network-ms", type=int, required=True)
    parser.add_argument("--new-seconds", type=float, required=True)
    parser.add_argument("neighbours", nargs="+")
    asyncio.run(main(parser.parse_args()))
