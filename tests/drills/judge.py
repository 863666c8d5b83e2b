"""What faults did to visitors, from the ledger, and what of it should not have been."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from tests.drills.load import REPEATABLE

GOOD_GETS = 0.9995
EXAMPLES_KEPT = 5
# So soon writes go on, whatever was lost; and so many times the usual time between two of them is chance.
RESUME_SECONDS, CHANCE = 25, 10


def is_get(record: dict) -> bool:
    return record["method"] in REPEATABLE


def within(record: dict, windows: list[tuple[float, float]]) -> bool:
    """Whether a request was under way at a time at which writes may fail."""
    return any(record["due"] <= ended and record["ended"] >= began for began, ended in windows)


def windows(steps: list[dict]) -> list[tuple[float, float]]:
    return [(step["began"], step["began"] + step["window"]) for step in steps]


def share_out(records: Iterable[dict], steps: list[dict]) -> list[list[dict]]:
    """Each step's requests: those that were due before it was over, and not before the one before it was."""
    found: list[list[dict]] = [[] for _ in steps]
    for record in sorted(records, key=lambda record: record["due"]):
        for step, its in zip(steps, found, strict=True):
            if record["due"] < (step["ended"] or float("inf")):
                its.append(record)
                break
    return found


def longest_gap(moments: list[float], began: float, ended: float) -> float:
    """The longest time without any of these moments."""
    inside = [began, *sorted(moment for moment in moments if began < moment < ended), ended]
    return max(later - earlier for earlier, later in pairwise(inside))


def figures(records: list[dict], step: dict, allowed: list[tuple[float, float]], lost: set[str]) -> dict:
    """Of the requests of one step; ``allowed`` are the times at which writes may fail."""
    gets, writes = [r for r in records if is_get(r)], [r for r in records if not is_get(r)]
    failed_gets, failed_writes = [[r for r in some if "error" in r] for some in (gets, writes)]
    outside = [record for record in failed_writes if not within(record, allowed)]
    ended = step["ended"] or max([record["ended"] for record in records] or [step["began"]])
    answered = [record["ended"] for record in writes if "error" not in record]
    slowest_get, slowest_write = [
        round(max([record["ended"] - record["due"] for record in some if "error" not in record] or [0.0]), 2)
        for some in (gets, writes)
    ]
    return {
        "requests": len(records),
        "gets": len(gets),
        "gets_failed": len(failed_gets),
        "first_failures": sum("first" in record for record in records),
        "writes": len(writes),
        "writes_failed": len(failed_writes),
        "outside": len(outside),
        "examples": [*outside, *failed_gets][:EXAMPLES_KEPT],
        "slowest_get": slowest_get,
        "slowest_write": slowest_write,
        "without_writes": round(longest_gap(answered, step["began"], ended), 2),
        "lost": sum(record.get("token") in lost for record in records),
    }


def problems(step: dict) -> list[str]:
    """What a step should not have done."""
    found = []
    if step["lacking"]:
        found.append(f"not whole again: {'; '.join(step['lacking'])}")
    if step.get("requests") == 0:
        found.append("nobody asked for anything meanwhile")
    if step.get("lost"):
        found.append(f"{step['lost']} acknowledged writes lost")
    if is_without_writes(step):
        found.append(f"{step['without_writes']:g} s without a write")
    if step.get("outside"):
        found.append(f"{step['outside']} writes failed more than {step['window']:g} s after it: {first_of(step)}")
    return found


def first_of(step: dict) -> str:
    """When the first that should not have failed was due, how long it took, what became of it, and why by its host."""
    first = step["examples"][0]
    said = " ".join(filter(None, (first["error"], first["host"], first.get("why"))))
    return (
        f"the first was due {first['due'] - step['began']:+.1f} s from it, and ended after "
        f"{first['ended'] - first['due']:.1f} s: {said}"
    )


def is_without_writes(step: dict) -> bool:
    if not (step["ended"] and step.get("writes")):
        return False
    usual = (step["ended"] - step["began"]) / step["writes"]
    return step["without_writes"] > RESUME_SECONDS + CHANCE * usual


def good_gets(steps: list[dict]) -> float:
    asked = sum(step.get("gets", 0) for step in steps)
    return 1 - sum(step.get("gets_failed", 0) for step in steps) / asked if asked else 1.0


def verdict(steps: list[dict], rounds: list[dict]) -> list[str]:
    """What was not as it should be, of a run as a whole and of each of its faults."""
    found = [f"{step['name']} ({step['host']}): {problem}" for step in steps for problem in problems(step)]
    if (share := good_gets(steps)) < GOOD_GETS:
        found.append(f"{share:.3%} of the GETs were good, where {GOOD_GETS:.2%} are wanted")
    for one in rounds:
        for what, said in (("lost", "acknowledged writes lost"), ("twice", "writes there twice")):
            if one.get(what):
                found.append(f"{len(one[what])} {said}: {' '.join(one[what][:EXAMPLES_KEPT])}")
        for host, files in one.get("files_wrong", {}).items():
            found.append(f"{host} does not hold {len(files)} acknowledged files: {' '.join(files[:EXAMPLES_KEPT])}")
        if one.get("uploads_wrong"):
            found.append(f"{len(one['uploads_wrong'])} uploads come back different")
    return found
