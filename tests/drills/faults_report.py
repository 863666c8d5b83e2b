"""The sections of docs/drills.md about faults and about the game, and their pictures, from what the drill has kept."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from math import inf
from pathlib import Path

from tests.drills import judge, picture
from tests.drills.ledger import read
from tests.drills.report import machine, seconds, table, write_section, writes_and_cost
from tests.drills.table import BY_NAME, FAULTS

MARKERS = "<!-- faults: written by make drill -->", "<!-- end of faults -->"
GAME_MARKERS = "<!-- the game: written by make drill GAME=60 -->", "<!-- end of the game -->"
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


def picture_of(state: dict, name: str, title: str, folder: Path, docs: Path) -> str:
    """Of the round that had the most faults."""
    ledgers = {step["ledger"]: [s for s in state["steps"] if s["ledger"] == step["ledger"]] for step in state["steps"]}
    return draw(name, title, max(ledgers.values(), key=len), folder, docs)


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
        f"Measured on {machine()}, which the load shares with all hosts.",
    ]
    return "\n".join(lines)


def text(state: dict, head: str, drawn: str) -> str:
    steps = state["steps"]
    problems = [f"* {step['name']} ({step['host']}): {problem}" for step in steps for problem in step["problems"]]
    parts = [head, summary(state), drawn, faults(steps)]
    if problems:
        parts += ["Not as it should be:", "\n".join(problems)]
    return "\n\n".join(parts)


def of_runs(state: dict, wanted: Callable[[int], bool]) -> dict:
    """The same of some commands; what one that was cut short has left open has no figures yet."""
    closed = {one["ledger"] for one in state["rounds"]}
    return {
        "steps": [step for step in state["steps"] if wanted(step["run"]) and step["ledger"] in closed],
        "rounds": [one for one in state["rounds"] if wanted(one["run"])],
    }


def write(state: dict, folder: Path, docs: Path) -> None:
    """All rounds of one fault after another, and the last game; a section stays as it is where there is nothing new."""
    games = state.get("games", [])
    if (rounds := of_runs(state, lambda run: run not in games))["steps"]:
        drawn = picture_of(rounds, "drill-faults.svg", "One fault after another", folder, docs)
        write_section(docs, MARKERS, text(rounds, "### One after another", drawn))
    if (game := of_runs(state, lambda run: run in games[-1:]))["steps"]:
        minutes = sum((step["ended"] or step["began"]) - step["began"] for step in game["steps"]) / 60
        seed = game["rounds"][-1]["seed"]
        head = f"### A game\n\n{minutes:.0f} minutes of faults in the order that `SEED={seed}` deals, nobody helping:"
        drawn = picture_of(game, "drill-game.svg", "Random faults", folder, docs)
        write_section(docs, GAME_MARKERS, text(game, head, drawn))
