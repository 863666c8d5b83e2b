"""`make test`: the steps one after another, each with its time, and one closing line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from lab import containers, engine
from lab.__main__ import ENVIRONMENT_OF_SCENARIO, check_memory
from tools import debian

ROOT = Path(__file__).resolve().parents[1]
# Of a step that failed: lines that name what failed, and its last ones; colours and molecule's frame are left out.
TELLING = re.compile(r"(FAILED|ERROR|fatal:|E  |.*idempotence.*fail)", re.IGNORECASE)
FRAME = re.compile(r"\x1b\[[0-9;]*m|^\s*│\s?")
LAST_LINES, TELLING_LINES = 25, 120
# What Ansible says of a failure comes after the line that names the host: so many lines, or to the next empty one.
REASON_LINES = 20


def step(name: str, command: list[str], environment: dict[str, str]) -> tuple[int, list[str]]:
    """Its exit status, and what it said, which is shown meanwhile."""
    print(f"\n=== {name}", flush=True)
    said = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(FRAME.sub("", FRAME.sub("", line.rstrip())))
    return process.returncode, said


def digest(said: list[str]) -> str:
    telling, more = [], 0
    for line in said:
        more = REASON_LINES if line.startswith(("fatal:", "failed:")) else max(0, more - 1) if line.strip() else 0
        if more or TELLING.match(line.strip()):
            telling.append(line)
    return "\n".join(["--- what failed:", *telling[-TELLING_LINES:], "--- its last lines:", *said[-LAST_LINES:]])


def run(scenarios: list[str]) -> int:
    # A wide page: molecule breaks what it shows to the width, and a test's name with it.
    environment = os.environ | {"TRESTLE_LAB": "test", "COLUMNS": "200"}
    try:
        engine.ensure()
        for program, package in (
            ("chromium", "chromium"),
            ("nft", "nftables"),
            ("visudo", "sudo"),
            ("pg_ctlcluster", "postgresql"),
            ("etcd", "etcd-server"),
        ):
            debian.ensure(program, package)
        check_memory(ENVIRONMENT_OF_SCENARIO[scenarios[0]])
    except (engine.EngineError, containers.LabError, debian.InstallError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    steps = [
        ("lint", ["make", "lint"]),
        ("contract tests", ["make", "contract"]),
        ("the example project's tests", ["make", "example"]),
        *((f"molecule test, {name}", ["molecule", "test", "-s", name]) for name in scenarios),
    ]
    passed, report = 0, []
    for name, command in steps:
        started = time.monotonic()
        code, said = step(name, command, environment)
        passed += code == 0
        report.append(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({time.monotonic() - started:.0f} s)")
        if code:
            print(f"\n{digest(said)}")
            break
    print("\n" + "\n".join(report))
    print(f"steps: {passed} passed, {len(report) - passed} failed")
    return 0 if passed == len(steps) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
