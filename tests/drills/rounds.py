"""Rounds of visitors, which every drill has: what they were told is compared in the end with what is there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker
import requests

from lab import containers, demo, engine, front
from lab.__main__ import check_memory, tiers_of
from tests.drills.hosts import Hosts, derived_secret
from tests.drills.ledger import Ledger, compare, read
from tests.drills.load import Load, content_of, visit
from tests.drills.versions import SITE

RATE = 40
# No round takes so long; a load that nobody stops ends then.
ROUND_SECONDS = 4 * 60 * 60


class Rounds:
    """A drill's folder and state, and the round of visitors under way."""

    def __init__(self, lab: containers.Lab, folder: Path, rate: float, say=demo.say):
        self.lab, self.folder, self.rate, self.say = lab, folder, rate, say
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "state.json"
        self.state = json.loads(self.file.read_text()) if self.file.exists() else {"steps": [], "rounds": []}
        self.hosts = Hosts(lab, SITE)
        self.lab_id = hashlib.sha256(lab.ca_file.read_bytes()).hexdigest()[:12]
        self.domain = demo.sites_of(lab.env_name)[SITE]["domains"][0]
        self.load: Load | None = None

    def save(self) -> None:
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(json.dumps(self.state, indent=1))
        unfinished.replace(self.file)

    def made_its_lab(self) -> None:
        """Remembered for a later command that goes on and finds it there."""
        self.state["made"] = self.lab_id
        self.save()

    def has_made_its_lab(self) -> bool:
        return self.state.get("made") == self.lab_id

    def session(self) -> requests.Session:
        return front.session(self.lab.front_address(), self.lab.ca_file)

    def begin(self, mix: dict | None = None) -> None:
        password = derived_secret(self.lab.secrets()["vault_site_key"], SITE, "editor")
        target = visit(self.session(), self.lab.front_address(), self.domain, str(self.lab.ca_file), password)
        name = f"{time.time():.0f}"
        ledger = self.folder / f"requests-{name}.jsonl.gz"
        self.state["open"] = {"name": name, "ledger": ledger.name, "lab": self.lab_id, "rate": self.rate}
        self.save()
        self.load = Load(target, self.rate, Ledger(ledger), name, ROUND_SECONDS, mix)
        self.load.start()

    def end(self) -> dict:
        """Stop the load, compare what it was told with what is there, and close the round."""
        cost = {}
        if self.load:
            self.load.stop()
            cost = {"processor": self.load.processor_seconds, "seconds": self.load.ran_seconds}
            if self.load.problem:
                self.say(f"the load ended by itself: {self.load.problem!r}")
            self.load = None
        closed = self.close(self.state["open"]) | cost
        self.state["rounds"].append(closed)
        del self.state["open"]
        self.save()
        return closed

    def close(self, opened: dict) -> dict:
        """A round's totals, from its ledger; of a lab that is gone nothing can be compared."""
        totals = dict.fromkeys(("requests", "failed", "first_failures", "late"), 0)
        acknowledged: dict[str, str] = {}
        for record in read(self.folder / opened["ledger"]):
            totals["requests"] += 1
            totals["failed"] += "error" in record
            totals["first_failures"] += "first" in record
            totals["late"] += record["started"] - record["due"] > 0.25
            if "token" in record and "error" not in record:
                acknowledged[record["token"]] = record["kind"]
        closed = opened | totals | {"writes": len(acknowledged), "compared": opened["lab"] == self.lab_id}
        if not closed["compared"]:
            return closed
        stored, pictures = self.hosts.stored(opened["name"])
        closed |= compare(set(acknowledged), stored) | self.compare_files(opened["name"], acknowledged, pictures)
        self.hosts.forget(opened["name"])
        return closed

    def compare_files(self, name: str, acknowledged: dict[str, str], pictures: dict[str, str]) -> dict:
        """Of the uploads that visitors get back, those that are not what was sent."""
        uploads = [token for token, kind in acknowledged.items() if kind == "upload" and token in pictures]
        session = self.session()
        wrong = [token for token in uploads if self.fetch(session, pictures[token]) != content_of("upload", token)]
        return {"uploads": len(uploads), "uploads_wrong": wrong}

    def fetch(self, session: requests.Session, picture: str) -> bytes:
        return session.get(f"https://{self.domain}/media/{picture}", timeout=20).content

    # What a drill does beside this.

    def good(self) -> bool:
        """Whether all was as it should be."""
        raise NotImplementedError

    def report(self) -> None:
        """Write its section of docs/drills.md."""
        raise NotImplementedError

    def leave(self) -> None:
        """Leave a lab that was there before as it was."""


def is_up(lab: containers.Lab) -> bool:
    """Whether there is a lab that serves its sites."""
    found = lab.containers()
    if not found or any(container.status != "running" for container in found.values()):
        return False
    try:
        demo.smoke(lab)
    except (containers.LabError, requests.RequestException):
        return False
    return True


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def conduct(make: Callable[[containers.Lab], Rounds], run: Callable[[Rounds], None]) -> int:
    """A drill from its lab to its report: 0 where all was as it should be."""
    os.environ.setdefault("TRESTLE_LAB", "drill")
    signal.signal(signal.SIGTERM, interrupt)
    lab = containers.Lab(os.environ.get("ENV", "production"))
    try:
        engine.ensure(demo.say)
        for container in lab.containers().values():
            lab.put_back(container)
        made = not is_up(lab)
        if made:
            if not lab.containers():
                check_memory(lab.env_name)
            demo.demo(lab, tiers_of(lab.env_name))
        drill = make(lab)
        if made:
            drill.made_its_lab()
    except (containers.LabError, engine.EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finished = False
    try:
        run(drill)
        finished = True
    except (containers.LabError, docker.errors.APIError) as error:
        print(f"error: {error}; the same command goes on from here", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", flush=True)
    try:
        if drill.load:
            drill.end()
    except (containers.LabError, docker.errors.APIError) as error:
        print(f"error: {error}", file=sys.stderr)
        finished = False
    drill.report()
    drill.say("docs/drills.md is written")
    if finished:
        demo.step("clean up", lambda: lab.down(demo.say) if drill.has_made_its_lab() else drill.leave())
    return 0 if finished and drill.good() else 1
