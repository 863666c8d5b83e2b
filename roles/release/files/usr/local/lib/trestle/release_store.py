"""A site's releases on this host: which there are, which run, and which were current when.

releases/.history has a JSON object a line, the newest last: time, id, version, kind (deploy or rollback), by, and pin:
for as long as the site's `source` in the inventory has this digest, the release stays whatever version that names.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

SRV = Path("/srv")
ARTIFACTS = Path("/var/lib/trestle/artifacts")
DAY = 24 * 60 * 60
# Lines of a history that are kept.
LINES = 500


def running() -> set[Path]:
    """The working folders of all processes."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(Path(os.readlink(process / "cwd")))
        except OSError:  # it has ended
            continue
    return found


class Site:
    def __init__(self, name: str):
        self.name, self.root = name, SRV / name
        self.releases, self.venvs = self.root / "releases", self.root / "venvs"
        self.log = self.releases / ".history"

    def current(self) -> str:
        link = self.root / "current"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def folders(self) -> list[Path]:
        return [path for path in self.releases.iterdir() if path.is_dir()] if self.releases.is_dir() else []

    def finished(self) -> dict[str, float]:
        """Each finished release, and when it was."""
        marks = [folder / ".ready" for folder in self.folders()]
        return {mark.parent.name: mark.stat().st_mtime for mark in marks if mark.exists()}

    def history(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def record(self, entry: dict) -> bool:
        """Add a line where it says anything new, and whether it did."""
        history = self.history()
        last = history[-1] if history else {}
        if entry["id"] != self.current() or all(last.get(key) == entry[key] for key in ("id", "pin")):
            return False
        unfinished = self.log.with_name(".history.new")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in [*history[1 - LINES :], entry]))
        unfinished.replace(self.log)
        return True

    def before(self) -> str:
        """The release to which a rollback would go: the newest other one that was current and is still there."""
        finished, current = self.finished(), self.current()
        ids = (line["id"] for line in reversed(self.history()))
        return next((release for release in ids if release != current and release in finished), "")

    def prune(self, keep: int, new: str = "") -> None:
        """Keep what runs, what a rollback would go to, what is ``new``, and in all the ``keep`` newest; no other."""
        finished = self.finished()
        for line in self.history():
            if line["id"] in finished:
                finished[line["id"]] = max(finished[line["id"]], line["time"])
        protected = {self.current(), self.before(), new}
        protected |= {path.relative_to(self.releases).parts[0] for path in running() if self.releases in path.parents}
        newest = sorted(finished, key=lambda release: (release in protected, finished[release]), reverse=True)
        kept = protected | set(newest[:keep])
        for folder in self.folders():
            if folder.name not in kept:
                shutil.rmtree(folder)
        used = {os.path.basename(os.path.realpath(folder / "venv")) for folder in self.folders()}
        for venv in self.venvs.iterdir() if self.venvs.is_dir() else []:
            if venv.name not in used:
                shutil.rmtree(venv)

    def state(self) -> dict:
        """What playbooks/releases.yml, rollback.yml and the static files of media hosts are told by."""
        releases = {}
        for release, since in self.finished().items():
            folder = self.releases / release
            marks = sorted((folder / "static").glob(".release-*"), key=lambda mark: mark.stat().st_mtime)
            releases[release] = {
                "version": json.loads((folder / "manifest.json").read_text()).get("version", ""),
                "installed": since,
                # One for each configuration that it was checked with, the newest last.
                "configurations": [mark.name.rpartition("-")[2] for mark in marks],
                "static": sorted({mark.read_text() for mark in marks}),
            }
        link = self.root / "current"
        switched = link.lstat().st_mtime if link.is_symlink() else 0
        history = self.history()
        return {"current": self.current(), "switched": switched, "releases": releases, "history": history}


def prune_artifacts() -> None:
    """Remove the artifacts of no release, and what a power cut left of one that was being brought; a new one may not be
    installed yet."""
    kept = {path.name for path in SRV.glob("*/releases/*")}
    for file in ARTIFACTS.glob("*"):
        if file.stat().st_mtime < time.time() - DAY and not kept & set(file.name.split(".")[0].split("-")):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
