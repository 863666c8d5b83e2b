"""docs/drills.md and its pictures, from what a drill has kept."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from pathlib import Path

import psutil

from tests.drills import picture
from tests.drills.ledger import read
from tests.drills.versions import BAD

MARKERS = "<!-- deploys: written by make drill-deploy -->", "<!-- end of deploys -->"
KIND_NAMES = {
    "deploy": ("deploy", "deploys"),
    "rollback": ("rollback", "rollbacks"),
    "patch": ("run of patch.yml", "runs of patch.yml"),
    "bad": ("bad release", "bad releases"),
}
# In this order a run goes through them.
SHARES = (
    "starting Ansible",
    "checking",
    "building",
    "preparing",
    "draining",
    "ending requests in flight",
    "restarting",
    "watching the canary",
    "giving back",
    "Ansible between the hosts",
    "recording",
    "crawling",
    "the rest",
)


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores and {memory:.0f} GB ({platform.machine()})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def seconds(value: float | None) -> str:
    return "" if value is None else ("never" if value == float("inf") else f"{value:.1f}")


def slowest(step: dict) -> str:
    """Of the pages that take no five seconds by themselves."""
    return f"{max([value for kind, value in step['slowest'].items() if kind != 'slow'] or [0]):.1f}"


def totals(state: dict) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in state["rounds"]:
        for name in ("requests", "failed", "first_failures", "late", "writes", "uploads"):
            found[name] += one.get(name, 0)
        for name in ("lost", "twice", "uploads_wrong"):
            found[name] += len(one.get(name, []))
        found["compared"] += one["writes"] if one["compared"] else 0
        found["processor"] += one.get("processor", 0)
        found["seconds"] += one.get("seconds", 0)
    return found


def writes_and_cost(state: dict) -> list[str]:
    """What became of the writes, and what the load itself took."""
    total = totals(state)
    rate = " and ".join(f"{rate:g}" for rate in sorted({one["rate"] for one in state["rounds"]}))
    lines = [
        f"Of {total['compared']:,} acknowledged writes {total['lost']} were lost and {total['twice']} were there\n"
        f"twice; of {total['uploads']:,} uploads {total['uploads_wrong']} came back different.",
    ]
    if total["compared"] < total["writes"]:
        lines.append(f"{total['writes'] - total['compared']:,} writes were not compared: their lab was gone before.")
    cost = f" and used {total['processor'] / total['seconds']:.0%} of a core" if total["seconds"] else ""
    lines.append(
        f"The load asked for {rate} requests a second{cost}; {total['late']:,} requests were sent more than a\n"
        "quarter of a second late, which counts in their times."
    )
    return lines


def summary(state: dict) -> str:
    total, kinds = totals(state), Counter(step["kind"] for step in state["steps"])
    did = ", ".join(f"{kinds[kind]} {names[kinds[kind] != 1]}" for kind, names in KIND_NAMES.items() if kinds[kind])
    lines = [
        f"**{total['failed']:,} of {total['requests']:,} requests failed** during {did}.",
        f"{total['first_failures']:,} GETs had no good answer at first and a good one on a new connection.",
    ]
    return "\n".join(lines + writes_and_cost(state))


def operations(steps: list[dict]) -> str:
    head = [
        "operation",
        "s",
        "requests",
        "failed",
        "before the retry",
        "asked of another host",
        "slowest, s",
        "touched",
    ]
    rows = [
        [
            step["name"] + (" (built before)" if step.get("built") else ""),
            f"{step['seconds']:.0f}",
            f"{step['requests']:,}",
            str(step["failed"]),
            str(step["first_failures"]),
            str(step["asked_again"]),
            slowest(step),
            " ".join(step["touched"]) or "no host",
        ]
        for step in steps
    ]
    return table(head, rows)


def bad_releases(steps: list[dict]) -> str:
    head = ["release", "failed", "touched", "back after, s", "what the run said"]
    rows = [
        [
            step["name"],
            str(step["failed"]),
            " ".join(step["touched"]) or "no host",
            seconds(step["back"]) or ("" if BAD[step["name"]].at_build else "never"),
            step["sentence"][:260],
        ]
        for step in steps
    ]
    return table(head, rows)


def time_of_a_deploy(steps: list[dict]) -> str:
    """The median of each share: of versions that are new to the environment, and of those that were built before."""
    groups = {
        "new": [step for step in steps if not step.get("built")],
        "built before": [step for step in steps if step.get("built")],
    }
    groups = {f"{name} ({len(found)})": found for name, found in groups.items() if found}

    def median(found: list[dict], share: str) -> str:
        return f"{statistics.median(step['shares'].get(share, 0.0) for step in found):.1f}"

    rows = [[share, *(median(found, share) for found in groups.values())] for share in SHARES]
    rows = [row for row in rows if any(cell != "0.0" for cell in row[1:])]
    whole = ["**in all**", *(f"**{statistics.median(s['seconds'] for s in found):.1f}**" for found in groups.values())]
    return table(["share, s", *groups], [*rows, whole])


def pictures(state: dict, folder: Path, docs: Path, hosts: list[str]) -> list[tuple[str, str]]:
    """(file, caption) of a deploy and of a bad release."""
    wanted = [
        ("drill-deploy.svg", [s for s in state["steps"] if s["kind"] == "deploy" and len(s["touched"]) == len(hosts)]),
        ("drill-bad.svg", [s for s in state["steps"] if s["kind"] == "bad" and s["back"]]),
    ]
    found = []
    for name, steps in wanted:
        if not steps:
            continue
        # Of bad releases the one that had visitors for longest, of deploys the last.
        step = max(steps, key=lambda step: (step["name"] == list(BAD)[2], step["began"]))
        first = min(event["at"] for event in step["events"])
        last = max(event["at"] for event in step["events"])
        began, ended = max(step["began"], first - 15), last + 8
        records = [r for r in read(folder / step["ledger"]) if began <= r["ended"] <= ended]
        title = step["name"] if step["kind"] == "deploy" else f"A bad release: {step['name']}"
        subtitle = f"{step['requests']:,} requests, {step['failed']} failed, {step['first_failures']} before the retry"
        (docs / name).write_text(picture.draw(title, subtitle, records, step["events"], began, ended, hosts))
        found.append((name, f"{title}: {subtitle}"))
    return found


def text(state: dict, drawn: list[tuple[str, str]]) -> str:
    steps = state["steps"]
    good, bad = [s for s in steps if s["kind"] != "bad"], [s for s in steps if s["kind"] == "bad"]
    deploys = [s for s in good if s["kind"] == "deploy" and not s["problems"]]
    parts = [
        "### Figures",
        summary(state),
        f"Measured on {machine()}, which the load shares with 13 hosts and Ansible.",
        *(f"![{caption}]({name})" for name, caption in drawn),
    ]
    if good:
        parts += ["### Operations", operations(good)]
    if deploys:
        parts += [
            "### Where the time of a deploy goes",
            f"Code alone to {len(deploys[0]['touched'])} web hosts under load: of versions that are new to the\n"
            "environment, and of such as `playbooks/build.yml` has built and checked before, as a pipeline would.\n"
            "Pages of 5 s are always under way. Medians.",
            time_of_a_deploy(deploys),
        ]
    if bad:
        parts += ["### Bad releases", bad_releases(bad), operations(bad)]
    problems = [f"* {step['name']}: {problem}" for step in steps for problem in step["problems"]]
    if problems:
        parts += ["### Not as it should be", "\n".join(problems)]
    return "\n\n".join(parts)


def write_section(docs: Path, markers: tuple[str, str], section: str) -> None:
    """What stands between a drill's markers, and nothing else, is written anew."""
    path = docs / "drills.md"
    before = path.read_text() if path.exists() else "# Drills\n\n"
    head, _, rest = before.partition(markers[0])
    tail = rest.partition(markers[1])[2] or "\n"
    path.write_text(f"{head}{markers[0]}\n{section}\n{markers[1]}{tail}")


def write(state: dict, folder: Path, docs: Path, hosts: list[str]) -> None:
    write_section(docs, MARKERS, text(state, pictures(state, folder, docs, hosts)))
