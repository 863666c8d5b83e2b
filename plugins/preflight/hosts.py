"""Hosts and groups: every tier is there, and no name or address stands for two things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from plugins.preflight.inventory import Inventory, nearest

# How alike a group's name and a tier's are when one is taken for a misspelling of the other.
ALIKE = 0.75
# Groups that are no tiers: the build host's, if there is one.
OTHER_GROUPS = ("build",)


def check(inventory: Inventory) -> Iterator[str]:
    for part in (tiers, groups, names, addresses, floating_address):
        yield from part(inventory)


def tiers(inventory: Inventory) -> Iterator[str]:
    for tier in inventory.tiers:
        if not inventory.groups.get(tier):
            yield f"{inventory.hosts_file}: the tier {tier} has no host: name at least one."
    count = len(inventory.groups.get("db") or [])
    if count and count % 2 == 0:
        yield (
            f"{inventory.hosts_file}: the tier db has {count} hosts, which as etcd members survive no more losses "
            f"than {count - 1}: name 1, 3 or 5."
        )


def groups(inventory: Inventory) -> Iterator[str]:
    known = [*inventory.tiers, *OTHER_GROUPS]
    for group in inventory.groups.keys() - {"all", "ungrouped", *known}:
        if meant := nearest(group, known, ALIKE):
            yield f"{inventory.hosts_file}: the group {group} is not a tier: did you mean {meant}?"
    placed = {host for group in known for host in inventory.groups.get(group) or []}
    for host in inventory.hosts:
        if host.name not in placed:
            yield f"{inventory.hosts_file}: the host {host.name} is in no tier: name it in one, or delete it."


def names(inventory: Inventory) -> Iterator[str]:
    alike = defaultdict(list)
    for host in inventory.hosts:
        alike[host.name.lower()].append(host.name)
        if host.name in inventory.groups:
            yield f"{inventory.hosts_file}: {host.name} is a host and a group: rename the host."
    for same in alike.values():
        if len(same) > 1:
            yield f"{inventory.hosts_file}: the hosts {' and '.join(same)} differ in case only: rename one."


def addresses(inventory: Inventory) -> Iterator[str]:
    for name in ("ansible_host", "address"):
        at = defaultdict(list)
        for host in inventory.hosts:
            if value := host.value(name):
                at[value, host.value("ansible_port") if name == "ansible_host" else None].append(host)
        for (value, _), same in at.items():
            if len(same) > 1:
                listed = " and ".join(host.name for host in same)
                yield f"{same[-1].where((name,))}: {listed} have the same {name}, {value}: give each its own."


def floating_address(inventory: Inventory) -> Iterator[str]:
    vip = inventory.common.value("lb_vip")
    for host in inventory.hosts:
        if vip and vip in (host.value("ansible_host"), host.value("address")):
            yield inventory.common.problem("lb_vip", f"is the address of {host.name}: name one that no host has.")
