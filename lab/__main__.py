"""The lab's command line: python -m lab COMMAND. `make help` names the commands; ENV chooses the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from lab import containers, demo, engine, status

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT_OF_SCENARIO = {"default": "production", "staging": "staging", "dev": "dev"}
# What a host may take while it is being set up, on average, and the controller with it.
MEMORY_MB_A_HOST, MEMORY_MB_CONTROLLER = 400, 1500


def tiers_of(env_name: str) -> dict[str, list[str]]:
    """Each host of an inventory and the tiers it is in."""
    folder = ROOT / "inventories" / env_name
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in folder.parent.iterdir()))
        raise containers.LabError(f"There is no inventories/{env_name}: ENV is one of {known}.")
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(folder), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise containers.LabError(f"The inventory {env_name} cannot be read: {done.stderr.strip().splitlines()[-1]}")
    inventory = json.loads(done.stdout)
    tiers: dict[str, list[str]] = {}
    for tier in containers.MEMORY_MB:
        for host in inventory.get(tier, {}).get("hosts", []):
            tiers.setdefault(host, []).append(tier)
    return tiers


def check_memory(env_name: str) -> None:
    """Refuse to start hosts that this machine cannot hold."""
    hosts = len(tiers_of(env_name))
    needed = hosts * MEMORY_MB_A_HOST + MEMORY_MB_CONTROLLER
    available = psutil.virtual_memory().available // 2**20
    if available < needed:
        raise containers.LabError(
            f"{env_name} in containers needs {needed} MB of memory and {available} MB are free: "
            "stop something, use a larger machine, or try ENV=staging or ENV=dev."
        )


def run_demo(lab: containers.Lab) -> None:
    if not engine.connect() or not lab.containers():
        check_memory(lab.env_name)
    demo.demo(lab, tiers_of(lab.env_name))


def run_bench(named: containers.Lab) -> None:
    # A lab of its own; the environment variable takes Ansible's overlay there too.
    os.environ["TRESTLE_LAB"] = "bench"
    lab = containers.Lab(named.env_name)
    check_memory(lab.env_name)
    demo.bench(lab, tiers_of(lab.env_name))


def up(lab: containers.Lab) -> None:
    engine.ensure()
    lab.up(tiers_of(lab.env_name))


def down(lab: containers.Lab) -> None:
    if engine.connect():
        lab.down()


def ssh(lab: containers.Lab) -> None:
    found = lab.containers()
    host = sys.argv[2] if len(sys.argv) > 2 else ""
    if host not in found:
        raise containers.LabError(f"HOST is one of {', '.join(sorted(found)) or 'none: there is no lab'}.")
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    os.execvp("ssh", ["ssh", *options, "-i", str(lab.key), f"root@{lab.address(found[host])}", *sys.argv[3:]])


COMMANDS = {
    "demo": run_demo,
    "bench": run_bench,
    "up": up,
    "down": down,
    "ssh": ssh,
    "status": lambda lab: print(status.table(lab)),
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m lab {{{'|'.join(COMMANDS)}}}", file=sys.stderr)
        return 2
    try:
        COMMANDS[sys.argv[1]](containers.Lab(os.environ.get("ENV", "production")))
    except (containers.LabError, engine.EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
