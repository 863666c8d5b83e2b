"""`make drill-deploy`: deploys, rollbacks, patches and bad releases while visitors come at a steady rate.

RATE=40 requests a second; REQUESTS=1000000 goes on until so many were made; KINDS="deploy bad" leaves the others out.
What was done is kept in .cache/drill/: the same command goes on where it stopped. docs/drills.md is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from lab import containers, demo, engine, front
from lab.__main__ import check_memory, tiers_of
from tests.drills import report
from tests.drills.hosts import Hosts, derived_secret
from tests.drills.ledger import Ledger, compare, read
from tests.drills.load import Load, content_of, visit
from tests.drills.runs import Run, back_seconds, play, sentence, shares
from tests.drills.versions import BAD, FOUND_AT_BUILD, SITE, Versions

ROOT = Path(__file__).resolve().parents[2]
RATE = 40
# After a run the visitors go on, so that what it did late is seen too.
SETTLE_SECONDS = 8
BACK_SECONDS = 10
# No round takes so long; a load that nobody stops ends then.
ROUND_SECONDS = 4 * 60 * 60


@dataclass(frozen=True)
class Step:
    kind: str
    name: str
    version: str
    arguments: tuple[str, ...]
    round: int = 0
    fast: bool = False


def round_of(number: int, versions: Versions, env_name: str, folder: Path) -> Iterator[Step]:
    """Ten deploys, two rollbacks, a patch and eight bad releases; every second deploy is accelerated."""

    common = ("-e", f"@{versions.write_sites(env_name, folder)}", "-e", f"site={SITE}")

    def deploy(version: str) -> tuple[str, ...]:
        return ("playbooks/deploy.yml", *common, "-e", f"release_version={version}")

    version = "begin"
    for count in range(1, 11):
        version = versions.good(10 * number + count)
        yield Step("deploy", f"deploy {version}", version, deploy(version), number, count % 2 == 0)
        if count % 5 == 0:
            # The release before, and forward again with the next deploy.
            yield Step("rollback", f"rollback from {version}", version, ("playbooks/rollback.yml", *common), number)
    yield Step("patch", "patch", version, ("playbooks/patch.yml", *common[:2]), number)
    for name in BAD:
        bad = versions.bad(name)
        yield Step("bad", name, bad, deploy(bad), number)


class Drill:
    def __init__(self, lab: containers.Lab, folder: Path, rate: float, say=demo.say):
        self.lab, self.folder, self.rate, self.say = lab, folder, rate, say
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "state.json"
        self.state = json.loads(self.file.read_text()) if self.file.exists() else {"steps": [], "rounds": []}
        self.versions = Versions(folder / "site")
        self.hosts = Hosts(lab, SITE)
        self.lab_id = hashlib.sha256(lab.ca_file.read_bytes()).hexdigest()[:12]
        self.domain = demo.sites_of(lab.env_name)[SITE]["domains"][0]
        self.load: Load | None = None
        # What each host is to have after it was patched.
        self.offered: dict[str, str] = {}

    def save(self) -> None:
        unfinished = self.file.with_suffix(".new")
        unfinished.write_text(json.dumps(self.state, indent=1))
        unfinished.replace(self.file)

    def session(self) -> requests.Session:
        return front.session(self.lab.front_address(), self.lab.ca_file)

    # A round of the load, and what became of what it wrote.

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
        uploads = [token for token, kind in acknowledged.items() if kind == "upload" and token in pictures]
        session = self.session()
        wrong = [token for token in uploads if self.fetch(session, pictures[token]) != content_of("upload", token)]
        self.hosts.forget(opened["name"])
        return closed | compare(set(acknowledged), stored) | {"uploads": len(uploads), "uploads_wrong": wrong}

    def fetch(self, session: requests.Session, picture: str) -> bytes:
        return session.get(f"https://{self.domain}/media/{picture}", timeout=20).content

    # One operation under the load.

    def take(self, step: Step) -> dict:
        self.load.next_tally()
        before, began = self.hosts.identities(), time.time()
        log = self.folder / f"{len(self.state['steps']) + 1:03}-{step.kind}.log"
        run = play(self.lab.env_name, log, *step.arguments, fast=step.fast)
        time.sleep(SETTLE_SECONDS)
        tally = self.load.next_tally()
        deadline = time.monotonic() + 60
        while tally.open and time.monotonic() < deadline:
            time.sleep(0.1)
        done = self.judge(step, run, before, self.hosts.identities(), self.hosts.journal(began))
        done |= tally.summary() | {
            "asked_again": self.hosts.asked_again(began, time.time()),
            "ledger": self.load.ledger.path.name,
            "log": log.name,
        }
        if done["failed"]:
            done["problems"].append(f"{done['failed']} requests failed")
        if step.kind == "patch":
            patched = self.hosts.versions()
            bad = {host: had for host, had in patched.items() if had != self.offered[host]}
            done["touched"] = sorted(patched.keys() - bad.keys())
            done["problems"] += [f"{host} has {had!r}, not {self.offered[host]!r}" for host, had in bad.items()]
            self.hosts.withdraw()
        self.state["steps"].append(done)
        self.save()
        self.tell(done)
        return done

    def judge(self, step: Step, run: Run, before: dict, after: dict, events: list[dict]) -> dict:
        """What happened on the hosts, and what of it should not have."""
        moved = {event["host"] for event in events} | {host for host in before if before[host] != after[host]}
        back = back_seconds(events)
        releases = {identity["release"] for identity in after.values()}
        problems = []
        if step.kind == "bad":
            allowed = 0 if step.name in FOUND_AT_BUILD else 1
            if run.code == 0:
                problems.append("the run succeeded")
            if len(moved) > allowed:
                problems.append(f"touched {', '.join(sorted(moved))}")
            if any(before[host]["release"] != after[host]["release"] for host in before):
                problems.append("a host runs another release than before")
            if allowed and (back is None or back > BACK_SECONDS):
                problems.append("not back" if back is None else f"back only after {back:.1f} s")
        else:
            if run.code:
                problems.append(f"the run ended with {run.code}: {sentence(run.output)}")
            if len(releases) != 1 or None in releases:
                problems.append("the hosts do not run one release")
            if step.kind in ("deploy", "rollback") and any(before[h]["release"] == after[h]["release"] for h in before):
                problems.append("a host still runs the release before")
        return {
            "kind": step.kind,
            "name": step.name,
            "version": step.version,
            "round": step.round,
            "fast": step.fast,
            "began": run.began,
            "ended": run.ended,
            "seconds": run.seconds,
            "code": run.code,
            "sentence": sentence(run.output) if run.code else "",
            "touched": sorted(moved),
            "events": events,
            "back": back,
            "shares": shares(run, events),
            "problems": problems,
        }

    def tell(self, done: dict) -> None:
        self.say(
            f"{done['seconds']:.0f} s, {done['requests']} requests, {done['failed']} failed, {done['first_failures']} "
            f"failed before the retry, touched: {', '.join(done['touched']) or 'no host'}"
        )
        if done["sentence"]:
            self.say(done["sentence"][:300])
        for problem in done["problems"]:
            self.say(f"NOT AS IT SHOULD BE: {problem}")

    # All of it.

    def base(self, version: str) -> None:
        """The site as the drill deploys it: its configuration, and a version that has the slow pages."""
        sites = self.versions.write_sites(self.lab.env_name, self.folder)
        options = (
            "--tags",
            "release,gunicorn",
            "-e",
            f"@{sites}",
            "-e",
            f"site={SITE}",
            "-e",
            f"release_version={version}",
        )
        run = play(self.lab.env_name, self.folder / "base.log", "site.yml", *options, fast=True)
        if run.code:
            raise containers.LabError(f"The drill's site cannot be deployed: {sentence(run.output)}")

    def leave(self) -> None:
        """The site as the environment has it."""
        run = play(self.lab.env_name, self.folder / "leave.log", "site.yml", "--tags", "release,gunicorn", fast=True)
        if run.code:
            self.say(f"the environment's own release is not back: {sentence(run.output)}")

    def run(self, wanted: int, kinds: list[str]) -> None:
        """Rounds, until so many requests were made; the first one is finished in any case."""
        if "open" in self.state:
            self.say("a round was cut short: closing it")
            self.end()
        good = [step["version"] for step in self.state["steps"] if step["kind"] == "deploy"]
        demo.step("the drill's site", lambda: self.base(good[-1] if good else "begin"))
        done = {(step["kind"], step["name"], step["round"]) for step in self.state["steps"]}
        number = 0
        while number == 0 or self.requests() < wanted:
            steps = round_of(number, self.versions, self.lab.env_name, self.folder)
            left = [s for s in steps if s.kind in kinds and (s.kind, s.name, number) not in done]
            if left:
                if any(step.kind == "patch" for step in left):
                    # Without that there would be nothing to patch in a lab that was made today.
                    self.offered = demo.step("something to patch on every host", self.hosts.offer)
                self.begin()
                time.sleep(SETTLE_SECONDS)
                for step in left:
                    demo.step(f"{step.kind}: {step.name}", lambda step=step: self.take(step))
                demo.step("compare what was written with what is there", self.end)
            elif number == 0 and self.requests() >= wanted:
                self.say(f"all of it was done: REQUESTS=... goes on, and without {self.folder} it begins anew")
            number += 1

    def requests(self) -> int:
        return sum(done["requests"] for done in self.state["rounds"])

    def good(self) -> bool:
        rounds = self.state["rounds"]
        bad = [done for done in rounds if done["failed"] or done.get("lost") or done.get("twice")]
        bad += [done for done in rounds if done.get("uploads_wrong")]
        return not bad and not any(step["problems"] for step in self.state["steps"])


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


def main() -> int:
    os.environ.setdefault("TRESTLE_LAB", "drill")
    signal.signal(signal.SIGTERM, interrupt)
    wanted, rate = int(os.environ.get("REQUESTS") or 0), float(os.environ.get("RATE") or RATE)
    kinds = (os.environ.get("KINDS") or "deploy rollback patch bad").split()
    lab = containers.Lab(os.environ.get("ENV", "production"))
    try:
        engine.ensure(demo.say)
        made = not is_up(lab)
        if made:
            if not lab.containers():
                check_memory(lab.env_name)
            demo.demo(lab, tiers_of(lab.env_name))
        drill = Drill(lab, ROOT / ".cache/drill" / lab.name, rate)
    except (containers.LabError, engine.EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finished = False
    try:
        drill.run(wanted, kinds)
        finished = True
    except containers.LabError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", flush=True)
    if drill.load:
        drill.end()
    report.write(drill.state, drill.folder, ROOT / "docs", list(drill.hosts.web))
    drill.say("docs/drills.md is written")
    if finished:
        demo.step("clean up", lambda: lab.down(demo.say) if made else drill.leave())
    return 0 if finished and drill.good() else 1


if __name__ == "__main__":
    sys.exit(main())
