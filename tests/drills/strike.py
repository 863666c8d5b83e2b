"""Faults as they are done to a container, and the way back."""

from __future__ import annotations

from lab.containers import Lab, LabError
from tests.drills.runs import play
from tests.drills.table import LOSS_PERCENT

# By nftables, of what comes in: netem is a module that many kernels come without, and a packet that the sender's own
# filter drops is an error to it.
LOSE = (
    "table inet drill { chain input { type filter hook input priority raw; "
    f"iifname != lo numgen random mod 100 < {LOSS_PERCENT} drop; }}; }}"
)
LOSE_NOTHING = "add table inet drill; delete table inet drill"


def run(container, command: str) -> None:
    done = container.exec_run(["sh", "-c", command])
    if done.exit_code:
        raise LabError(f"{command}: {done.output.decode(errors='replace').strip()[-300:]}")


def strike(lab: Lab, container, act: str) -> None:
    match act:
        case "kill":
            lab.power_off(container)
        case "pause":
            lab.freeze(container)
        case "partition":
            lab.cut_off(container)
        case "loss":
            run(container, f"nft '{LOSE}'")
        case playbook if playbook.endswith(".yml"):
            log = lab.folder / "strike.log"
            if play(lab.env_name, log, playbook, fast=True).code:
                raise LabError(f"{playbook} failed: see {log}")
        case command:
            run(container, command)


def put_back(lab: Lab, container) -> None:
    """Whatever was done to it, and if it was nothing."""
    container.reload()
    lab.put_back(container)
    run(container, f"nft '{LOSE_NOTHING}'")
