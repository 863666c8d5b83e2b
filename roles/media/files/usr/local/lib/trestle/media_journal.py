# Ansible managed: role media
"""What a media host has: the uploads of its sites, and a journal of what was done to them.

Every write and every deletion has a version, nanoseconds since 1970, chosen by who did it. The highest wins, in any
order in which hosts hear of them. A file's version is its mtime, so that the disk itself says what the journal lost in
a crash and what came by hand. A deletion is an entry without a size; it is forgotten after some weeks.

A path is <site>/<name>, percent-encoded as in a URL; its file is <root>/<site>/uploads/<name>.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

# A path's entry moves to the end of the journal when it changes: who has read to a sequence lacks what comes after it.
TABLES = """
CREATE TABLE IF NOT EXISTS entry (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, version INTEGER NOT NULL, size INTEGER);
CREATE TABLE IF NOT EXISTS wanted (
    path TEXT, peer TEXT, version INTEGER NOT NULL, size INTEGER NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (path, peer));
CREATE TABLE IF NOT EXISTS peer (address TEXT PRIMARY KEY, journal TEXT, sequence INTEGER, seen REAL);
CREATE TABLE IF NOT EXISTS journal (name TEXT, forgotten INTEGER);
"""
PAGE = 1000


class Entry(NamedTuple):
    version: int
    size: int | None  # None: deleted


class Newer(Exception):
    """What is there is newer than what was to be done."""

    def __init__(self, version: int):
        super().__init__(str(version))
        self.version = version


class Stale(Exception):
    """This host was away for longer than its peers remember deletions."""


def canonical(path: str) -> str:
    return quote(unquote_to_bytes(path))


class Journal:
    def __init__(self, root: Path):
        self.root, self.scratch, self.lock = root, root / ".unfinished", threading.RLock()
        self.db = sqlite3.connect(root / ".journal/journal.db", check_same_thread=False, isolation_level=None)
        self.db.executescript(f"PRAGMA journal_mode=WAL; {TABLES}")
        if not self.one("SELECT name FROM journal"):
            self.db.execute("INSERT INTO journal VALUES (?, 0)", [secrets.token_hex(8)])
        self.name = self.one("SELECT name FROM journal")[0]

    def one(self, query: str, *arguments):
        with self.lock:
            return self.db.execute(query, arguments).fetchone()

    @contextlib.contextmanager
    def change(self, durable: bool = True):
        """All or nothing; on the disk when the block has ended, or soon where the peers could tell it again."""
        with self.lock:
            self.db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db.execute
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def file(self, path: str) -> Path:
        """A path's file; ValueError where the path is none of an upload."""
        site, *names = os.fsdecode(unquote_to_bytes(path)).split("/")
        if not names or any(name in ("", ".", "..") or "\0" in name for name in (site, *names)):
            raise ValueError(f"{path} is no path of an upload")
        return self.root.joinpath(site, "uploads", *names)

    def known(self, path: str) -> Entry | None:
        row = self.one("SELECT version, size FROM entry WHERE path = ?", path)
        return Entry(*row) if row else None

    # What is done to one path.

    def store(self, path: str, content: Path, version: int | None = None, durable: bool = True) -> int:
        """Gives the content, a file below ``scratch`` which stays, the path's name; returns its version."""
        target = self.file(path)
        self._check_site(path)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            copy = Path(folder, "copy")
            os.link(content, copy)
            copy.chmod(0o644)
            if durable:
                sync(copy)
            with self.lock:
                version = self._newer(path, version)
                if self.known(path) != Entry(version, copy.stat().st_size):
                    os.utime(copy, ns=(version, version))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if target.is_dir():
                        remove_empty(target)
                    os.replace(copy, target)
                    if durable:
                        sync(target.parent)
                    self._record(path, Entry(version, target.stat().st_size), durable)
        return version

    def delete(self, path: str, version: int | None = None) -> int:
        """Also what is not there: the file may be on its way from a peer."""
        self._check_site(path)
        with self.lock:
            version = self._newer(path, version)
            self._record(path, Entry(version, None))
            self._unlink(path)
        return version

    def _check_site(self, path: str) -> None:
        if not self._uploads(self.file(path)).is_dir():
            raise FileNotFoundError(f"{path}: there is no such site")

    def _uploads(self, file: Path) -> Path:
        return self.root.joinpath(*file.relative_to(self.root).parts[:2])

    def _newer(self, path: str, version: int | None) -> int:
        known = self.known(path)
        if version is None:
            return max(time.time_ns(), known.version + 1 if known else 0)
        if known and known.version > version:
            raise Newer(known.version)
        return version

    def _record(self, path: str, entry: Entry, durable: bool = True) -> None:
        with self.change(durable) as execute:
            execute("REPLACE INTO entry (path, version, size) VALUES (?, ?, ?)", [path, *entry])
            execute("DELETE FROM wanted WHERE path = ? AND version <= ?", [path, entry.version])

    def _unlink(self, path: str) -> None:
        """After the journal says so: a crash in between leaves a file that the next scan removes."""
        file = self.file(path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            file.unlink()
        with contextlib.suppress(OSError):
            while file.parent != self._uploads(file):
                file = file.parent
                file.rmdir()

    # What peers tell each other.

    def changes(self, since: int) -> dict:
        """A page of the journal after a sequence."""
        with self.lock:
            query = "SELECT sequence, path, version, size FROM entry WHERE sequence > ? ORDER BY sequence LIMIT ?"
            rows = self.db.execute(query, [since, PAGE]).fetchall()
        return {
            "journal": self.name,
            "sequence": rows[-1][0] if rows else since,
            "more": len(rows) == PAGE,
            "forgotten": self.forgotten(),
            "entries": [row[1:] for row in rows],
        }

    def cursor(self, peer: str) -> tuple[str, int]:
        """The peer's journal and how far it was read."""
        return self.one("SELECT journal, sequence FROM peer WHERE address = ?", peer) or ("", 0)

    def learn(self, peer: str, page: dict) -> None:
        """Takes a page of a peer's journal: deletions at once, files when they are fetched."""
        self.check_age(page["forgotten"])
        with self.lock:
            deleted = []
            with self.change(durable=False) as execute:
                execute("UPDATE journal SET forgotten = max(forgotten, ?)", [page["forgotten"]])
                for path, *told in page["entries"]:
                    entry, known = Entry(*told), self.known(path)
                    self.file(path)
                    if known and known.version >= entry.version:
                        continue
                    if entry.size is None:
                        deleted.append(path)
                        execute("REPLACE INTO entry (path, version, size) VALUES (?, ?, NULL)", [path, entry.version])
                        execute("DELETE FROM wanted WHERE path = ? AND version <= ?", [path, entry.version])
                    else:
                        execute("REPLACE INTO wanted VALUES (?, ?, ?, ?, ?)", [path, peer, *entry, time.time()])
                row = [peer, page["journal"], page["sequence"], time.time()]
                execute("REPLACE INTO peer VALUES (?, ?, ?, ?)", row)
            for path in deleted:
                self._unlink(path)

    def check_age(self, forgotten: int) -> None:
        """Stale where a peer has forgotten a deletion since this host last heard from any."""
        (seen,) = self.one("SELECT max(seen) FROM peer")
        if seen and seen * 1e9 < forgotten:
            raise Stale("this host was away for longer than its peers remember deletions")

    def forgotten(self) -> int:
        return self.one("SELECT forgotten FROM journal")[0]

    def wanted(self, peer: str, after: str = "") -> list[tuple[str, int, int]]:
        """Some of the files that the peer has and this host lacks: path, version and size."""
        query = "SELECT path, version, size FROM wanted WHERE peer = ? AND path > ? ORDER BY path LIMIT 100"
        with self.lock:
            return self.db.execute(query, [peer, after]).fetchall()

    def is_wanted(self, path: str, version: int) -> bool:
        return bool(self.one("SELECT 1 FROM wanted WHERE path = ? AND version = ?", path, version))

    def lag(self) -> tuple[int, float]:
        """How many files are wanted, and since when the oldest."""
        count, since = self.one("SELECT count(DISTINCT path), min(since) FROM wanted")
        return count, since or 0

    # What needs doing now and then.

    def scan(self) -> int:
        """Makes the journal say what is on the disk; how many entries were wrong."""
        paths = (path for found in (self._on_disk(), self._in_journal()) for path in found)
        return sum(self._compare(path) for path in paths)

    def _on_disk(self) -> Iterator[str]:
        for uploads in sorted(self.root.glob("[!.]*/uploads")):
            for folder, _, names in os.walk(uploads):
                for name in names:
                    relative = os.path.relpath(os.path.join(folder, name), uploads)
                    yield quote(os.fsencode(f"{uploads.parent.name}/{relative}"))

    def _in_journal(self) -> Iterator[str]:
        since, more = 0, True
        while more:
            page = self.changes(since)
            since, more = page["sequence"], page["more"]
            yield from (path for path, _, _ in page["entries"])

    def _compare(self, path: str) -> bool:
        file = self.file(path)
        with self.lock:
            known = self.known(path)
            try:
                found = os.lstat(file)
            except (FileNotFoundError, NotADirectoryError):
                if known is None or known.size is None:
                    return False
                print(f"{path} is gone from the disk", flush=True)
                with self.change() as execute:
                    execute("DELETE FROM entry WHERE path = ?", [path])
                    self._read_all_again(execute)
                return True
            disk = Entry(found.st_mtime_ns, found.st_size)
            if disk == known:
                return False
            if known and known.size is None and disk.version <= known.version:
                self._unlink(path)  # a deletion that was cut short
                return True
            if known and disk.version == known.version:
                # A write that was cut short: any peer's is better.
                os.utime(file, ns=(1, 1))
                disk = Entry(1, disk.size)
            self._record(path, disk, durable=False)
            if known and disk.version < known.version:
                with self.change() as execute:
                    self._read_all_again(execute)
            return True

    @staticmethod
    def _read_all_again(execute) -> None:
        execute("UPDATE peer SET sequence = 0")

    def forget(self, seconds: float) -> None:
        """Deletions that are older. A peer that has heard of none since must not come back with the files."""
        limit = time.time_ns() - int(seconds * 1e9)
        with self.change() as execute:
            (last,) = execute("SELECT max(version) FROM entry WHERE size IS NULL AND version < ?", [limit]).fetchone()
            if last is not None:
                execute("DELETE FROM entry WHERE size IS NULL AND version < ?", [limit])
                execute("UPDATE journal SET forgotten = max(forgotten, ?)", [last])

    def tidy(self, seconds: float) -> None:
        """Removes what interrupted uploads left."""
        for left in self.scratch.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - seconds:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_empty(folder: Path) -> None:
    """OSError where there is a file below it."""
    for parent, _, _ in os.walk(folder, topdown=False):
        os.rmdir(parent)
