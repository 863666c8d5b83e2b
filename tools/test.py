"""`make test`: the steps one after another, each with its time, and one closing line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lab import containers, engine
from lab.__main__ import ENVIRONMENT_OF_SCENARIO, check_memory
from tools import debian

ROOT = Path(__file__).resolve().parents[1]


def run(scenarios: list[str]) -> int:
    environment = os.environ | {"TRESTLE_LAB": "test"}
    try:
        engine.ensure()
        for program, package in (
            ("chromium", "chromium"),
            ("nft", "nftables"),
            ("visudo", "sudo"),
            ("pg_ctlcluster", "postgresql"),
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
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        passed += code == 0
        report.append(f"{'ok    ' if code == 0 else 'FAILED'} {name} ({time.monotonic() - started:.0f} s)")
        if code:
            break
    print("\n" + "\n".join(report))
    print(f"steps: {passed} passed, {len(report) - passed} failed")
    return 0 if passed == len(steps) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
