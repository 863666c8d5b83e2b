"""The ledger: a line for every request, and what follows from them."""

from __future__ import annotations

import gzip
import json
import statistics
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# A request that the load itself sends so much too late says more of the load than of the site.
LATE_SECONDS = 0.25
# Of each operation's failures so many are kept for the report; the ledger has them all.
FAILURES_KEPT = 20


class Ledger:
    """JSON lines in a gzip file, whose every piece can be read by itself: what a crash cuts off is a second."""

    def __init__(self, path: Path):
        self.path, self.lines = path, []
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: dict) -> None:
        self.lines.append(json.dumps(record, separators=(",", ":")))

    def flush(self) -> None:
        if self.lines:
            piece = gzip.compress(("\n".join(self.lines) + "\n").encode())
            self.lines.clear()
            with self.path.open("ab") as file:
                file.write(piece)


def read(path: Path) -> Iterator[dict]:
    """Every record; a last piece that was cut off is left out."""
    try:
        with gzip.open(path, "rt") as file:
            for line in file:
                yield json.loads(line)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile):
        return


class Tally:
    """The figures of the requests that were due during one operation."""

    def __init__(self):
        self.requests = self.open = self.first_failures = self.late = 0
        self.kinds: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.why_first: Counter[str] = Counter()
        self.failures: list[dict] = []
        self.seconds: list[float] = []
        self.slowest: dict[str, float] = {}
        self.latest = 0.0

    def begin(self) -> None:
        self.open += 1

    def add(self, record: dict) -> None:
        self.open -= 1
        self.requests += 1
        kind, seconds = record["kind"], record["ended"] - record["due"]
        self.kinds[kind] += 1
        late = record["started"] - record["due"]
        self.late += late > LATE_SECONDS
        self.latest = max(self.latest, late)
        self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds)
        if kind != "slow":
            self.seconds.append(seconds)
        if record.get("first"):
            self.first_failures += 1
            self.why_first[record["first"]] += 1
        if record.get("error"):
            self.failed[kind] += 1
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(record)

    def summary(self) -> dict:
        quick = sorted(self.seconds) or [0.0]
        return {
            "requests": self.requests,
            "kinds": dict(self.kinds),
            "failed": self.failed.total(),
            "failed_kinds": dict(self.failed),
            "first_failures": self.first_failures,
            "why_first": dict(self.why_first),
            "failures": self.failures,
            "median": round(statistics.median(quick), 3),
            "p99": round(quick[min(len(quick) - 1, int(len(quick) * 0.99))], 3),
            "slowest": {kind: round(seconds, 3) for kind, seconds in self.slowest.items()},
            "late": self.late,
            "latest": round(self.latest, 3),
        }


def compare(acknowledged: set[str], stored: Counter[str]) -> dict[str, list[str]]:
    """What is wrong with the writes: acknowledged and not there, or there more than once.

    One that was not acknowledged may be there or not: its client has been told that it failed.
    """
    lost = [token for token in acknowledged if not stored[token]]
    twice = [token for token, count in stored.items() if count > 1]
    return {"lost": sorted(lost), "twice": sorted(twice)}


def missing_files(sent: dict[str, str], held: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Path to digest, as sent and as each host holds them: the hosts that do not have every one as it was sent."""
    wrong = {host: sorted(path for path in sent if files.get(path) != sent[path]) for host, files in held.items()}
    return {host: paths for host, paths in wrong.items() if paths}
