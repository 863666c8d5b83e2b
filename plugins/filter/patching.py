"""What playbooks/patch.yml needs to know of all hosts: which of them have something to do, and in which order."""

from __future__ import annotations

import json

# A tier before those that stand in front of it, and the monitor, which watches, last.
ORDER = ("cache", "media", "db", "web", "lb", "monitor")


def patch_work(said: str, reboot: bool) -> list[str]:
    """What is to be done on a host, a sentence for each; empty where nothing is."""
    found = json.loads(said)
    work = {
        "an earlier run left this host drained": ["-"] if found["flagged"] else [],
        "to upgrade": found["upgrade"],
        "to restart, since a package has changed": found["restart"],
        "to reboot for": found["reboot"] if reboot else [],
    }
    return [what if which == ["-"] else f"{what}: {' '.join(which)}" for what, which in work.items() if which]


def patch_order(said: dict[str, str], tier_members: dict, last: list[str], reboot: bool) -> list[str]:
    """The hosts with something to do: tier by tier, first one that an earlier run left drained, and ``last`` last."""
    members = {tier: {member["name"] for member in tier_members[tier]} for tier in ORDER}

    def key(host: str) -> tuple:
        rank = max((n for n, tier in enumerate(ORDER) if host in members[tier]), default=-1)
        return rank, not json.loads(said[host])["flagged"], host in last, host

    return sorted((host for host in said if patch_work(said[host], reboot)), key=key)


def patch_leftovers(said: dict[str, str]) -> list[str]:
    """What the run has left for people, a line for each host and kind."""
    lines = []
    for host, text in sorted(said.items()):
        found = json.loads(text)
        if found["reboot"]:
            lines.append(f"{host} needs a reboot for {' '.join(found['reboot'])}: -e patch_reboot=true allows it")
        if found["kept"]:
            lines.append(f"{host}: apt keeps back {' '.join(found['kept'])}: look there, apt full-upgrade --dry-run")
    return lines


def sites_only_here(pool: str, host: str) -> list[str]:
    """The sites that a load balancer would have no backend for without this host."""
    return [
        site
        for site, backends in sorted(json.loads(pool or "{}").items())
        if not any(name != host and backend["state"] == "up" for name, backend in backends.items())
    ]


class FilterModule:
    def filters(self):
        return {
            "patch_work": patch_work,
            "patch_order": patch_order,
            "patch_leftovers": patch_leftovers,
            "sites_only_here": sites_only_here,
        }
