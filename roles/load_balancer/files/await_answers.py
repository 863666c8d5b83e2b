#!/usr/bin/python3
# Ansible managed
"""await_answers.py SECONDS: waits until the web hosts have answered what they were asked, while new requests are held.

Not longer than that: what is left is told, and may fail.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pool_checker import POOL_FILE, ask

PERIOD_SECONDS = 0.2
# A request may lie between nginx and a project when nobody looks.
LOOKS = 2


def under_way(backends: list[dict], executor: ThreadPoolExecutor) -> int:
    """Requests that a project has begun and not answered; of a host that does not answer none could be awaited."""
    answers = executor.map(lambda backend: ask(backend["address"], backend["port"], "live"), backends)
    return sum(answer.said.get("requests", {}).get("under_way", 0) for answer in answers)


def main(seconds: float) -> None:
    backends = [backend for members in json.loads(POOL_FILE.read_text()).values() for backend in members]
    deadline, quiet = time.monotonic() + seconds, 0
    with ThreadPoolExecutor(max_workers=64) as executor:
        while quiet < LOOKS:
            count = under_way(backends, executor)
            quiet = 0 if count else quiet + 1
            if time.monotonic() > deadline:
                print(f"after {seconds:g} s {count} requests are not answered")
                return
            time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main(float(sys.argv[1]))
