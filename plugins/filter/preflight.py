"""What is wrong with an inventory or a host, one sentence each: the file, the variable and the remedy."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.preflight import certificates, hosts, machines, mail, secrets, sites, sources, variables
from plugins.preflight.inventory import Inventory


def preflight_problems(groups, hostvars) -> list[str]:
    """Every problem of the inventory; an empty list where there is none."""
    inventory = Inventory(groups, hostvars)
    problems = [
        *hosts.check(inventory),
        *variables.check(inventory),
        *secrets.check(inventory),
        *sites.check(inventory),
        *mail.check(inventory),
        *machines.controller(inventory),
    ]
    # What these read is in order only where nothing above was found.
    problems = problems or [*sources.check(inventory), *certificates.check(inventory)]
    return list(dict.fromkeys(problems))


def preflight_host_problems(names, hostvars) -> list[str]:
    """Every problem of hosts whose facts are known."""
    return [problem for name in names for problem in machines.host(name, hostvars[name]["ansible_facts"])]


class FilterModule:
    def filters(self):
        return {"preflight_problems": preflight_problems, "preflight_host_problems": preflight_host_problems}
