"""The section of docs/drills.md about faults, and its pictures, from what the drill has kept."""

from __future__ import annotations

import statistics
from math import inf
from pathlib import Path

from tests.drills import judge, picture
from tests.drills.ledger import read
from tests.drills.report import machine, seconds, table, write_section, writes_and_cost
from tests.drills.table import BY_NAME, FAULTS

MARKERS = "<!-- faults: written by make drill -->", "<!-- end of faults -->"
HEAD = [
    "fault",
    "times",
    "requests",
    "failed GETs",
    "before the retry",
    "failed writes",
    "slowest GET, s",
    "slowest write, s",
    "s without writes",
    "s to full redundancy",
    "writes lost",
]
TIERS = ("lb", "web", "db", "cache", "media", "monitor")


def middle_and_worst(values: list[float]) -> str:
    """One value, or the median of several and the largest."""
    if len(values) < 2:
        return seconds(values[0] if values else inf)
    return f"{seconds(statistics.median(values))} / {seconds(max(values))}"


def row(name: str, steps: list[dict]) -> list[str]:
    beside = sorted({role for step in steps for role in step["hit"]} - {BY_NAME[name].role})
    return [
        name + (f" (and {', '.join(beside)})" if beside else ""),
        str(len(steps)),
        f"{sum(step['requests'] for step in steps):,}",
        str(sum(step["gets_failed"] for step in steps)),
        str(sum(step["first_failures"] for step in steps)),
        str(sum(step["writes_failed"] for step in steps)),
        # An earlier drill's state has them not apart.
        *(
            seconds(max((step[key] for step in steps if key in step), default=None))
            for key in ("slowest_get", "slowest_write")
        ),
        middle_and_worst([step["without_writes"] for step in steps]),
        middle_and_worst([step["whole"] - step["back"] for step in steps if step["whole"]]),
        str(sum(step["lost"] for step in steps)),
    ]


def faults(steps: list[dict]) -> str:
    # One that was cut short by Ctrl-C says nothing of how long it would have lasted.
    steps = [step for step in steps if step["ended"] or step["lacking"]]
    by_name = {fault.name: [step for step in steps if step["name"] == fault.name] for fault in FAULTS}
    return table(HEAD, [row(name, found) for name, found in by_name.items() if found])


def lanes(steps: list[dict], ended: float) -> dict[str, list[tuple[str, float, float]]]:
    """For each tier, when a host of it was away and when it was not yet whole."""
    found: dict[str, list[tuple[str, float, float]]] = {tier: [] for tier in TIERS}
    for step in steps:
        back, whole = step["back"] or ended, step["whole"] or ended
        for tier in {role.partition("-")[0] for role in step["hit"]}:
            found[tier] += [("drained", step["began"], whole), ("stopped", step["began"], back)]
    return found


def draw(name: str, title: str, steps: list[dict], folder: Path, docs: Path) -> str:
    """The picture of a round, as the page shows it."""
    records = list(read(folder / steps[0]["ledger"]))
    began, ended = records[0]["due"], max(record["ended"] for record in records)
    failed = sum("error" in record for record in records)
    subtitle = f"{len(records):,} requests, {failed} failed, {len(steps)} faults"
    hosts = {record["host"] for record in records} - {""}
    marks = [(step["began"], step["name"]) for step in steps]
    drawn = picture.chart(title, subtitle, records, hosts, lanes(steps, ended), marks, began, ended, picture.FAULT)
    (docs / name).write_text(drawn)
    return f"![{title}: {subtitle}]({name})"


def pictures(state: dict, folder: Path, docs: Path) -> list[str]:
    """Of the round of all faults and of the game that had the most of them."""
    ledgers = {step["ledger"]: [s for s in state["steps"] if s["ledger"] == step["ledger"]] for step in state["steps"]}
    kinds = {"drill-faults.svg": ("One fault after another", False), "drill-game.svg": ("Random faults", True)}
    found = []
    for name, (title, game) in kinds.items():
        of_kind = [steps for steps in ledgers.values() if (steps[0]["run"] in state.get("games", [])) == game]
        if of_kind:
            found.append(draw(name, title, max(of_kind, key=len), folder, docs))
    return found


def summary(state: dict) -> str:
    steps = state["steps"]
    gets, writes = (sum(step[kind] for step in steps) for kind in ("gets", "writes"))
    wrong = sum(len(files) for one in state["rounds"] for files in one.get("files_wrong", {}).values())
    lines = [
        f"**{judge.good_gets(steps):.3%} of {gets:,} GETs were good** during {len(steps)} faults; "
        f"{sum(step['first_failures'] for step in steps):,} of them had\nno good answer at first and one on a new "
        f"connection. {sum(step['writes_failed'] for step in steps):,} of {writes:,} writes failed, "
        f"**{sum(step['outside'] for step in steps)} of them outside of the\nseconds that the table gives them**.",
        *writes_and_cost(state),
        f"Of {sum(one.get('files', 0) for one in state['rounds']):,} acknowledged files {wrong} were missing or "
        "different on a media host.",
    ]
    return "\n".join(lines)


def game(state: dict) -> str:
    """The last one."""
    run = state["games"][-1]
    steps = [step for step in state["steps"] if step["run"] == run]
    rounds = [one for one in state["rounds"] if one["run"] == run]
    lost = sum(len(one.get("lost", [])) for one in rounds)
    minutes = sum((step["ended"] or step["began"]) - step["began"] for step in steps) / 60
    return (
        f"{minutes:.0f} minutes, {len(steps)} faults in the order that `SEED={rounds[-1]['seed']}` deals, nobody "
        f"helping: {judge.good_gets(steps):.3%} of\nthe GETs were good, {lost} acknowledged writes were lost, "
        f"{sum(step['writes_failed'] for step in steps)} writes failed, {sum(step['outside'] for step in steps)} of "
        "them outside of their\nseconds."
    )


def text(state: dict, drawn: list[str]) -> str:
    steps = state["steps"]
    played = [step for step in steps if step["run"] in state.get("games", [])]
    parts = ["### What became of visitors", summary(state)]
    parts += [f"Measured on {machine()}, which the load shares with all hosts.", *drawn]
    for title, found in (("### One after another", [s for s in steps if s not in played]), ("### A game", played)):
        if found:
            parts += [title, *([game(state)] if found is played else []), faults(found)]
    problems = [f"* {step['name']} ({step['host']}): {problem}" for step in steps for problem in step["problems"]]
    if problems:
        parts += ["### Not as it should be in the faults", "\n".join(problems)]
    return "\n\n".join(parts)


def write(state: dict, folder: Path, docs: Path) -> None:
    # What a command that was cut short has left open has no figures yet.
    closed = {one["ledger"] for one in state["rounds"]}
    known = state | {"steps": [step for step in state["steps"] if step["ledger"] in closed]}
    write_section(docs, MARKERS, text(known, pictures(known, folder, docs)))
