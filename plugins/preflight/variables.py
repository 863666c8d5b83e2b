"""Variables: every name of ours is known, is there, can be templated and holds what its role documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from plugins.preflight.inventory import ROOT, Failed, Host, Inventory, leaves, names_in, nearest, readable
from plugins.preflight.schema import faults

# How alike two names are when one is taken for a misspelling of the other.
ALIKE = 0.85
# What no role reads by itself, but group_vars/all/ do.
OTHERS = {
    "domain": {"type": "str", "required": True, "description": "The hosts' own domain."},
    "address": {"type": "str"},
    "sites": {"type": "dict", "required": True, "description": "The sites (docs/sites.md)."},
}


@cache
def documented() -> dict[str, dict]:
    """Every variable that a role documents."""
    specs = dict(OTHERS)
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        for entry in yaml.load(path.read_text(), yaml.CSafeLoader)["argument_specs"].values():
            for name, spec in entry.get("options", {}).items():
                specs.setdefault(name, spec)
    return specs


@cache
def roles() -> tuple[str, ...]:
    return tuple(path.name for path in ROOT.glob("roles/*") if path.is_dir())


def check(inventory: Inventory) -> Iterator[str]:
    for host in inventory.hosts:
        yield from untemplatable(host)
        yield from misspelt(host)
        yield from wrong(host)
    yield from missing(inventory)
    yield from unread_files(inventory)


def untemplatable(host: Host) -> Iterator[str]:
    for name in host.own:
        for path, leaf in leaves(host.value(name), (name,)):
            if isinstance(leaf, Failed) and not leaf.excused:
                yield host.problem(path, f"cannot be templated ({leaf.reason}): correct the expression.")


def misspelt(host: Host) -> Iterator[str]:
    """A name that nothing reads, and that looks like one of ours; any other is the user's own affair."""
    known = documented().keys() | {name for name in host.raw if name not in host.own}
    read = names_in(host.raw) | _words_of_playbooks()
    for name in host.own:
        if name in known or name in read or name.startswith(("ansible_", "vault_")):
            continue
        meant = nearest(name, known, ALIKE)
        if meant or name.startswith(tuple(f"{role}_" for role in roles())):
            meant = meant or nearest(name, known)
            yield host.problem(name, f"is not a variable: {f'did you mean {meant}?' if meant else 'delete it.'}")


@cache
def _words_of_playbooks() -> set[str]:
    return set().union(*(re.findall(r"\w+", path.read_text()) for path in ROOT.glob("playbooks/*.yml")))


def wrong(host: Host) -> Iterator[str]:
    for name in host.own:
        if name in documented():
            for path, text in faults(host.value(name), documented()[name], (name,)):
                yield host.problem(path, text)


def missing(inventory: Inventory) -> Iterator[str]:
    for name, spec in documented().items():
        if spec.get("required") and name not in inventory.common.raw:
            yield inventory.common.problem(name, f"is missing: set it. {spec['description']}")


def unread_files(inventory: Inventory) -> Iterator[str]:
    """Ansible passes over the variables of a group or a host that it does not know."""
    names = {"group_vars": inventory.groups.keys(), "host_vars": {host.name for host in inventory.hosts}}
    for folder, known in names.items():
        for path in sorted(Path(inventory.common.raw["inventory_dir"], folder).glob("[!.]*")):
            if path.stem not in known and path.name not in known:
                meant = nearest(path.stem, known)
                hint = f"did you mean {meant}?" if meant else "rename or delete it."
                yield f"{readable(path)}: there is no {folder.removesuffix('_vars')} {path.stem}: {hint}"
