"""What an environment still lacks to be whole: every service of every host, and for each host another in its place."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import docker

from lab import containers
from lab.status import inactive

# What a host of a tier is asked, once for all: an answer each, in this order.
QUESTIONS = {
    "lb": {"pool": "curl -s -m 2 http://127.0.0.1:8079/pool", "addresses": "ip -4 -o addr show"},
    "web": {"pgpool": "/usr/local/lib/nagios/plugins/check_pgpool"},
    "db": {
        "cluster": "curl -s -m 2 http://{address}:8008/cluster",
        "etcd": "curl -s -m 2 http://{address}:2381/health",
    },
    "media": {"files": r"find /srv/media/*/uploads -type f -printf '%T@ %p\n' 2>/dev/null; date +%s.%N"},
}
NEXT = "-- the next answer --"
# What was uploaded a moment ago may still be on its way to the second host.
YOUNG_SECONDS = 5


@dataclass
class View:
    """One host, as it was found."""

    tiers: list[str]
    amiss: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    def told(self, question: str) -> dict:
        with suppress(ValueError):
            told = json.loads(self.answers.get(question, ""))
            return told if isinstance(told, dict) else {}
        return {}

    def leader(self) -> str | None:
        """Who leads the databases, as this host sees it."""
        members = self.told("cluster").get("members", [])
        return next((member["name"] for member in members if member["role"] == "leader"), None)

    def files(self) -> dict[str, float]:
        """The uploads that a media host holds, and how many seconds ago each was written."""
        *lines, now = self.answers.get("files", "").splitlines() or ["0"]
        # Of a host that was stopped meanwhile the answer may be an error of the engine's.
        rows = [line.split(" ", 1) for line in lines if re.match(r"[\d.]+ /", line)]
        return {path: float(now) - float(written) for written, path in rows} if re.fullmatch(r"[\d.]+", now) else {}


def look(lab: containers.Lab) -> dict[str, View]:
    """Every host of the lab, as it is now."""
    found = lab.containers()

    def one(name: str) -> View:
        container, view = found[name], View(lab.tiers(found[name]))
        if container.status != "running":
            view.amiss.append(f"is {container.status}")
        elif not lab.is_connected(container):
            view.amiss.append("is cut off")
        else:
            try:
                view.amiss += [f"{unit} is not active" for unit in inactive(container, lab.table_tiers(found, name))]
                view.answers = ask(container, lab.address(container), view.tiers)
            except docker.errors.APIError as error:  # it was stopped meanwhile
                view.amiss.append(f"does not answer ({error.explanation})")
        return view

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(found, pool.map(one, found), strict=True))


def ask(container, address: str, tiers: list[str]) -> dict[str, str]:
    questions = {name: text for tier in tiers for name, text in QUESTIONS.get(tier, {}).items()}
    if not questions:
        return {}
    script = f"\necho; echo '{NEXT}'\n".join(text.format(address=address) for text in questions.values())
    said = container.exec_run(["sh", "-c", script]).output.decode(errors="replace")
    return dict(zip(questions, (answer.strip() for answer in said.split(NEXT)), strict=False))


def missing(lab: containers.Lab) -> list[str]:
    """What full redundancy lacks, in words; nothing where it is all there."""
    views = look(lab)
    return lacking(views, lab.front_address() if lab.has_floating_address(lab.containers()) else "")


def lacking(views: dict[str, View], floating: str) -> list[str]:
    found = [f"{name} {what}" for name, view in views.items() for what in view.amiss]
    of = {tier: {name: view for name, view in views.items() if tier in view.tiers} for tier in QUESTIONS}
    for name, view in of["lb"].items():
        found += pool_lacks(name, view.told("pool"))
    if floating and len(holders(views, floating)) != 1:
        found.append(f"the floating address is on {' and '.join(holders(views, floating)) or 'no host'}")
    for name, view in of["web"].items():
        if not (said := view.answers.get("pgpool", "")).startswith("OK"):
            found.append(f"{name}: pgpool: {said or 'no answer'}")
    for name, view in of["db"].items():
        found += cluster_lacks(name, view, set(of["db"]))
    return found + files_lack({name: view.files() for name, view in of["media"].items()})


def holders(views: dict[str, View], floating: str) -> list[str]:
    return [name for name, view in views.items() if f" {floating}/" in view.answers.get("addresses", "")]


def pool_lacks(name: str, pool: dict) -> list[str]:
    states = {
        f"{site} on {host}": backend["state"] if backend["checked"] else "not checked"
        for site, hosts in pool.items()
        for host, backend in hosts.items()
    }
    if not states:
        return [f"{name} does not tell its pool"]
    return [f"{name}: {backend} is {state}" for backend, state in states.items() if state != "up"]


def cluster_lacks(name: str, view: View, hosts: set[str]) -> list[str]:
    members = {member["name"]: member for member in view.told("cluster").get("members", [])}
    if view.told("etcd").get("health") != "true":
        return [f"{name}: etcd is not healthy"]
    found = [f"{name} does not see {other} in the cluster" for other in sorted(hosts - set(members))]
    if not view.leader():
        found.append(f"{name} sees no leader")
    for other, member in members.items():
        wanted = "running" if member["role"] == "leader" else "streaming"
        if member["state"] != wanted:
            found.append(f"{name} sees {other} {member['state']} ({member['role']})")
        elif member["role"] == "replica":
            # It streams, but no commit waits for it yet, and it may not be promoted.
            found.append(f"{name} sees that {other} has no vote")
    return found


def files_lack(files: dict[str, dict[str, float]]) -> list[str]:
    """Media hosts that lack what another has had for some seconds."""
    settled = {path for held in files.values() for path, age in held.items() if age > YOUNG_SECONDS}
    counts = {name: len(settled - set(held)) for name, held in files.items()}
    return [f"{name} lacks {count} of {len(settled)} uploads" for name, count in counts.items() if count]
