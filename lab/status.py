"""`make status`: one table of the lab's hosts, their services and their health."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from lab import containers

ROOT = Path(__file__).resolve().parents[1]


def units_of(tiers: list[str]) -> list[str]:
    """The systemd units that a host of these tiers runs, from the table of services."""
    services = yaml.safe_load((ROOT / "group_vars/all/services.yml").read_text())["services"]
    units = [s["unit"] for s in services if s.get("unit") and (s["tier"] == "all" or s["tier"] in tiers)]
    return list(dict.fromkeys(units))


def inactive(container, table_tiers: list[str]) -> list[str]:
    """The units of a host that are not active."""
    units = units_of(table_tiers)
    states = container.exec_run(["systemctl", "is-active", *units]).output.decode(errors="replace").split()
    if len(states) != len(units):
        return ["systemd"]
    return [unit for unit, state in zip(units, states, strict=True) if state != "active"]


def _run(container, command: str) -> str:
    return container.exec_run(["sh", "-c", command]).output.decode(errors="replace").strip()


def _detail(container, lab: containers.Lab, tiers: list[str]) -> str:
    """What a person would ask next of a host of these tiers."""
    details = []
    if "vip" in tiers and f"{lab.front_address()}/" in _run(container, "ip -4 -o addr show"):
        details.append("has the floating address")
    if "web" in tiers:
        current = _run(container, "cd /srv && for s in */current; do [ -L $s ] && echo $s $(readlink $s); done")
        links = [line.split() for line in current.splitlines()]
        details += [f"{link.split('/')[0]} {target.split('/')[-1]}" for link, target in links]
        if drained := _run(container, "ls /var/lib/trestle/drain 2>/dev/null").split():
            details.append(f"drained ({', '.join(drained)})")
    if "db" in tiers:
        answer = _run(container, "curl -s -m 2 http://$(hostname -I | cut -d' ' -f1):8008/patroni")
        try:
            details.append(json.loads(answer)["role"])
        except (ValueError, KeyError):
            details.append("Patroni does not answer")
    return ", ".join(filter(None, details))


def _row(lab: containers.Lab, name: str, container, table_tiers: list[str]) -> list[str]:
    tiers = lab.tiers(container)
    if container.status != "running":
        return [name, " ".join(tiers), "-", container.status]
    units = units_of(table_tiers)
    states = _run(container, "systemctl is-active " + " ".join(units)).splitlines()
    bad = [f"{unit} {state}" for unit, state in zip(units, states, strict=False) if state != "active"]
    health = "; ".join(bad) if bad else "ok"
    detail = _detail(container, lab, tiers)
    return [
        name,
        " ".join(tiers),
        f"{len(units) - len(bad)}/{len(units)}",
        f"{health}{f' ({detail})' if detail else ''}",
    ]


def table(lab: containers.Lab) -> str:
    """The table, a line for each host."""
    found = lab.containers()
    if not found:
        raise containers.LabError(f"There is no lab {lab.name}: run make demo ENV={lab.env_name} first.")
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda name: _row(lab, name, found[name], lab.table_tiers(found, name)), sorted(found)))
    rows.insert(0, ["host", "tier", "services", "health"])
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows)
