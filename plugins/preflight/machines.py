"""Machines: the controller, and each host once its facts are known."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from plugins.preflight.inventory import Inventory

# Megabytes; docs/runbook/hosts.md tells them.
CONTROLLER_FREE_MB = 2000
HOST_FREE_MB = 1000
FOLDERS = ("/", "/var", "/srv")


def controller(inventory: Inventory) -> Iterator[str]:
    cache = Path(inventory.common.value("artifact_cache"))
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free // 1_000_000
    if free < CONTROLLER_FREE_MB:
        yield f"artifact_cache is {cache}, with {free} MB of disk free: free {CONTROLLER_FREE_MB} MB on this machine."


def host(name: str, facts: dict) -> Iterator[str]:
    if (facts["distribution"], facts["distribution_major_version"]) != ("Debian", "13"):
        yield f"{name} runs {facts['distribution']} {facts['distribution_version']}: Trestle needs Debian 13."
    mounts = {mount["mount"]: mount for mount in facts.get("mounts", [])}
    # Folders of one file system are one fault; one that facts do not show (a container's) is none.
    full = {}
    for folder in FOLDERS:
        covering = [str(p) for p in (PurePosixPath(folder), *PurePosixPath(folder).parents) if str(p) in mounts]
        if covering and mounts[covering[0]].get("size_available", HOST_FREE_MB * 1_000_000) < HOST_FREE_MB * 1_000_000:
            full[covering[0]] = mounts[covering[0]]["size_available"] // 1_000_000
    for mount, free in full.items():
        yield f"{name} has {free} MB of disk free on {mount}: free {HOST_FREE_MB} MB."
