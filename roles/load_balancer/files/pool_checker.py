#!/usr/bin/python3
# Ansible managed
"""Asks every web host each second whether it is ready, and tells the nginx of this load balancer.

It is the only writer of the pool. One that is drained is out at once; one that does not answer, or answers anything
else, is out after the second time; one that is ready is in at once.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

POOL_FILE = Path("/etc/nginx/trestle/pool.json")
NGINX = ("127.0.0.1", 8079)
PERIOD_SECONDS = 1.0
TIMEOUT_SECONDS = 1.0
FAILURES_ALLOWED = 1
# A readiness answer is a few hundred bytes; a project that answers in its place is not to be read to the end.
ANSWER_BYTES = 4096


@dataclass(frozen=True)
class Answer:
    """What a web host said; status 0 is no answer, and then text says why."""

    status: int
    text: str = ""

    @property
    def reasons(self) -> list[str]:
        """Why a host that can answer is not ready, in its own words."""
        if self.status != 503:
            return []
        try:
            said = json.loads(self.text)
        except ValueError:
            return []
        reasons = said.get("reasons") if isinstance(said, dict) and said.get("ready") is False else None
        return [str(reason) for reason in reasons] if isinstance(reasons, list) else []


@dataclass(frozen=True)
class State:
    """A backend in the eyes of the checker."""

    name: str = "up"
    failures: int = 0
    why: str = "not asked yet"


def judge(before: State, answer: Answer) -> State:
    """The state of a backend after its latest answer."""
    if answer.status == 200:
        return State("up", 0, "ready")
    if answer.reasons:
        return State("drained", 0, ", ".join(answer.reasons))
    failures = before.failures + 1
    why = f"status {answer.status}" if answer.status else answer.text
    return State("down" if failures > FAILURES_ALLOWED else before.name, failures, why)


def ask(address: str, port: int) -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready", headers={"Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, response.read(ANSWER_BYTES).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, str(error) or type(error).__name__)
    finally:
        connection.close()


def tell(states: dict[tuple[str, str], State]) -> None:
    """Write the whole pool into nginx: it forgets what is not repeated."""
    pool: dict[str, dict[str, str]] = {}
    for (site, host), state in states.items():
        pool.setdefault(site, {})[host] = state.name
    connection = http.client.HTTPConnection(*NGINX, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("PUT", "/pool", json.dumps(pool))
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise http.client.HTTPException(f"status {status}")


def check(pool: dict, states: dict, executor: ThreadPoolExecutor) -> dict[tuple[str, str], State]:
    """One round: the new state of every backend of the pool; what left the pool is forgotten."""
    backends = [(site, backend) for site, members in pool.items() for backend in members]
    answers = executor.map(lambda b: ask(b[1]["address"], b[1]["port"]), backends)
    after = {}
    for (site, backend), answer in zip(backends, answers, strict=True):
        key = (site, backend["host"])
        before = states.get(key, State())
        after[key] = judge(before, answer)
        if after[key].name != before.name:
            print(f"{site} on {backend['host']}: {before.name} -> {after[key].name} ({after[key].why})", flush=True)
    return after


def main() -> None:
    states: dict[tuple[str, str], State] = {}
    heard = True
    with ThreadPoolExecutor(max_workers=64) as executor:
        while True:
            begun = time.monotonic()
            states = check(json.loads(POOL_FILE.read_text()), states, executor)
            try:
                tell(states)
                if not heard:
                    print("nginx hears again", flush=True)
                heard = True
            except (OSError, http.client.HTTPException) as error:
                if heard:
                    print(f"nginx does not hear: {error}", file=sys.stderr, flush=True)
                heard = False
            time.sleep(max(0.0, PERIOD_SECONDS - (time.monotonic() - begun)))


if __name__ == "__main__":
    main()
