#!/usr/bin/python3
# Ansible managed: role media
"""Takes uploads and deletions on a media host, and brings those that its peers took: media_sync.py FOLDER PEER...

nginx passes PUT and DELETE of /<site>/<name> on to a socket, with the body in a file (X-Media-Body). X-Media-Version
may say the version; 409 with that header is the answer where there is a newer one. GET /changes?since=SEQUENCE is a
page of the journal, for the peers. Each of them is asked every second for what changed since, and for what is lacking.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from urllib.parse import parse_qs, urlsplit

from media_journal import Journal, Newer, Stale, canonical

ASK_SECONDS, TIMEOUT_SECONDS = 1, 5
DAY = 24 * 60 * 60
VERSION = "X-Media-Version"


class Handler(BaseHTTPRequestHandler):
    """One request that nginx has let through; ``server.journal`` is what it is about."""

    def answer(self, status: int, text: str = "", version: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(text.encode())))
        if version is not None:
            self.send_header(VERSION, str(version))
        # Who has gone meanwhile, and nginx goes with the last header, needs no answer.
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(text.encode())

    def write(self, done: int, action) -> None:
        """What ``action`` does with path and version, which returns the version that is there then, and how it went."""
        path = self.path.partition("?")[0].lstrip("/")
        status, text = done, ""
        try:
            version = int(self.headers[VERSION]) if self.headers[VERSION] else None
            version = action(canonical(path), version)
        except Newer as newer:
            status, text, version = 409, "There is a newer one.\n", newer.version
        except ValueError as error:
            status, text, version = 400, f"{error}\n", None
        except FileNotFoundError as error:
            status, text, version = 404, f"{error}\n", None
        except (OSError, sqlite3.Error) as error:
            print(f"{self.command} {path}: {error}", flush=True)
            status, text, version = 507, f"{error}\n", None
        self.answer(status, text, version)

    def do_PUT(self):
        def store(path: str, version: int | None) -> int:
            # An empty body has no file.
            with tempfile.NamedTemporaryFile(dir=self.server.journal.scratch) as empty:
                return self.server.journal.store(path, Path(self.headers["X-Media-Body"] or empty.name), version)

        self.write(201, store)

    def do_DELETE(self):
        self.write(204, self.server.journal.delete)

    def do_GET(self):
        if not self.server.scanned.is_set():
            return self.answer(503, "The disk is being looked at.\n")
        question = {name: int(values[0]) for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            self.server.journal.check_age(question.get("forgotten", 0))
        except Stale as stale:
            return self.answer(410, f"{stale}\n")
        return self.answer(200, json.dumps(self.server.journal.changes(question.get("since", 0))))

    def log_message(self, *_):
        """nginx has logged it."""


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, socket: str, journal: Journal):
        self.journal, self.scanned = journal, threading.Event()
        Path(socket).unlink(missing_ok=True)
        super().__init__(socket, Handler)


class Peer:
    """One other media host, over one connection that stays."""

    def __init__(self, address: str, journal: Journal):
        self.address, self.journal = address, journal
        self.connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        # What is told of it: the time of its last answer, and what was wrong last.
        self.seen, self.problem = 0.0, ""

    def ask(self, path: str) -> http.client.HTTPResponse:
        self.connection.request("GET", path)
        return self.connection.getresponse()

    def changes(self, since: int) -> dict:
        answer = self.ask(f"/changes?since={since}&forgotten={self.journal.forgotten()}")
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"it answered {answer.status}")
        return json.loads(body)

    def read(self) -> None:
        """What changed since it was last read."""
        more = True
        while more:
            name, since = self.journal.cursor(self.address)
            page = self.changes(since)
            if page["journal"] != name and since:
                page = self.changes(0)
            self.journal.learn(self.address, page)
            more = page["more"]

    def fetch(self, path: str, version: int, size: int) -> bool:
        """Whether it gave the file; one that changed meanwhile is told of in a later page."""
        site, _, name = path.partition("/")
        answer = self.ask(f"/{site}/uploads/{name}")
        if answer.status != 200 or int(answer.headers["Content-Length"]) != size:
            answer.read()
            return False
        with tempfile.NamedTemporaryFile(dir=self.journal.scratch) as file:
            shutil.copyfileobj(answer, file)
            file.flush()
            if os.path.getsize(file.name) != size:
                raise OSError(f"{path} ended early")
            self.journal.store(path, Path(file.name), version, durable=False)
        return True

    def fetch_all(self) -> None:
        last, read = "", time.monotonic()
        while wanted := self.journal.wanted(self.address, last):
            for path, version, size in wanted:
                # Another peer may have given it.
                if self.journal.is_wanted(path, version):
                    self.fetch_one(path, version, size)
                last = path
                # Deletions, and what is newer, must not wait for all of it.
                if time.monotonic() - read > ASK_SECONDS:
                    self.read()
                    read = time.monotonic()

    def fetch_one(self, path: str, version: int, size: int) -> None:
        """One that cannot be stored holds nobody up."""
        try:
            self.fetch(path, version, size)
        except Newer:
            pass
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            print(f"{path} from {self.address}: {error}", flush=True)

    def keep_up(self) -> None:
        while True:
            try:
                self.read()
                self.fetch_all()
                self.seen, problem = time.time(), ""
            except (OSError, http.client.HTTPException, ValueError, Stale) as error:
                problem = str(error) or type(error).__name__
                self.connection.close()
            if problem != self.problem:
                print(f"{self.address}: {problem or 'in step'}", flush=True)
            self.problem = problem
            time.sleep(ASK_SECONDS)


def state(journal: Journal, peers: list[Peer]) -> dict:
    """What check_media and `make status` read."""
    count, since = journal.lag()
    told = {peer.address: {"seen": peer.seen, "problem": peer.problem} for peer in peers}
    return {"time": time.time(), "wanted": count, "since": since, "peers": told}


def write_state(file: Path, told: dict) -> None:
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(told))
    os.replace(scratch, file)


def fail(failed: threading.ExceptHookArgs) -> None:
    """systemd starts again what has lost a part of itself."""
    sys.excepthook(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scan-seconds", type=int, default=3600)
    parser.add_argument("--deletions-days", type=int, default=30)
    parser.add_argument("root", type=Path)
    parser.add_argument("peers", nargs="*")
    options = parser.parse_args()
    threading.excepthook = fail
    run = Path(os.environ["RUNTIME_DIRECTORY"])
    journal = Journal(options.root)
    server = Server(str(run / "socket"), journal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # What came by hand, before any peer tells of it or asks.
    journal.scan()
    scanned = time.monotonic()
    server.scanned.set()
    peers = [Peer(address, journal) for address in options.peers]
    for peer in peers:
        threading.Thread(target=peer.keep_up, daemon=True).start()
    while True:
        write_state(run / "state.json", state(journal, peers))
        if time.monotonic() - scanned > options.scan_seconds:
            journal.scan()
            journal.forget(options.deletions_days * DAY)
            journal.tidy(DAY)
            scanned = time.monotonic()
        time.sleep(ASK_SECONDS)


if __name__ == "__main__":
    main()
