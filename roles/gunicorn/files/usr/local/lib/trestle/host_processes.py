"""The processes of this host, as the kernel lists them."""

import resource
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    parent: int
    started: int
    rss: int

    @property
    def identity(self) -> tuple[int, int]:
        """Numbers are used again; a number and its start are not."""
        return self.pid, self.started


def processes() -> dict[int, Process]:
    """Every process of the host."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(folder.name)
        found[pid] = Process(pid, int(fields[1]), int(fields[19]), int(fields[21]) * resource.getpagesize())
    return found


def tree(table: dict[int, Process], root: int) -> Iterator[Process]:
    """A process and all that descend from it."""
    children = defaultdict(list)
    for process in table.values():
        children[process.parent].append(process.pid)
    waiting = [root] if root in table else []
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        yield table[pid]
