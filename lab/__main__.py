"""The lab's command line: python -m lab COMMAND [ENV]. `make help` names the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lab import containers, engine

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def tiers_of(env_name: str) -> dict[str, list[str]]:
    """Each host of an inventory and the tiers it is in."""
    command = [str(BIN / "ansible-inventory"), "-i", str(ROOT / "inventories" / env_name), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise containers.LabError(f"The inventory {env_name} cannot be read: {done.stderr.strip().splitlines()[-1]}")
    inventory = json.loads(done.stdout)
    tiers: dict[str, list[str]] = {}
    for tier in containers.MEMORY_MB:
        for host in inventory.get(tier, {}).get("hosts", []):
            tiers.setdefault(host, []).append(tier)
    return tiers


def up(env_name: str) -> None:
    engine.ensure()
    containers.Lab(env_name).up(tiers_of(env_name))


def down(env_name: str) -> None:
    if engine.connect():
        containers.Lab(env_name).down()


COMMANDS = {"up": up, "down": down}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m lab {{{'|'.join(COMMANDS)}}} [ENV]", file=sys.stderr)
        return 2
    env_name = sys.argv[2] if len(sys.argv) > 2 else os.environ.get("ENV", "production")
    try:
        COMMANDS[sys.argv[1]](env_name)
    except (containers.LabError, engine.EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
