"""`make drill-deploy`: deploys, rollbacks, patches and bad releases while visitors come at a steady rate.

RATE=40 requests a second; REQUESTS=1000000 goes on until so many were made; KINDS="deploy bad" leaves the others out.
What was done is kept in .cache/drill/: the same command goes on where it stopped. docs/drills.md is written anew.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import containers, demo
from tests.drills import report
from tests.drills.rounds import RATE, Rounds, conduct
from tests.drills.runs import Run, back_seconds, play, sentence, shares
from tests.drills.versions import BAD, ROOT, SITE, Versions

# After a run the visitors go on, so that what it did late is seen too.
SETTLE_SECONDS = 8
BACK_SECONDS = 10
PLAYBOOKS = {
    "deploy": "playbooks/deploy.yml",
    "bad": "playbooks/deploy.yml",
    "rollback": "playbooks/rollback.yml",
    "patch": "playbooks/patch.yml",
}


@dataclass(frozen=True)
class Step:
    kind: str
    name: str
    version: str
    arguments: tuple[str, ...]
    round: int = 0
    # Whether it is built before the run that is timed.
    built: bool = False


def round_of(number: int, versions: Versions, env_name: str, folder: Path) -> Iterator[Step]:
    """Ten deploys, two rollbacks, a patch and eight bad releases; what every second deploy deploys is built before."""

    common = ("-e", f"@{versions.write_sites(env_name, folder)}", "-e", f"site={SITE}")

    def deploy(version: str) -> tuple[str, ...]:
        return (*common, "-e", f"release_version={version}")

    version = "begin"
    for count in range(1, 11):
        version = versions.good(10 * number + count)
        yield Step("deploy", f"deploy {version}", version, deploy(version), number, count % 2 == 0)
        if count % 5 == 0:
            # The release before, and forward again with the next deploy.
            yield Step("rollback", f"rollback from {version}", version, common, number)
    yield Step("patch", "patch", version, common[:2], number)
    for name in BAD:
        bad = versions.bad(name)
        yield Step("bad", name, bad, deploy(bad), number)


class Drill(Rounds):
    def __init__(self, lab: containers.Lab, folder: Path, rate: float):
        super().__init__(lab, folder, rate)
        self.versions = Versions(folder / "site")
        # What each host is to have after it was patched.
        self.offered: dict[str, str] = {}

    def take(self, step: Step) -> dict:
        log = self.folder / f"{len(self.state['steps']) + 1:03}-{step.kind}.log"
        problems = []
        if step.built:
            build = play(self.lab.env_name, log.with_suffix(".build.log"), "playbooks/build.yml", *step.arguments)
            if build.code:
                problems.append(f"the build ended with {build.code}: {sentence(build.output)}")
        self.load.next_tally()
        before, began = self.hosts.identities(), time.time()
        run = play(self.lab.env_name, log, PLAYBOOKS[step.kind], *step.arguments)
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
        done["problems"] += problems
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
        why, problems = sentence(run.output) if run.code else "", []
        if step.kind == "bad":
            allowed = 0 if BAD[step.name].at_build else 1
            if run.code == 0:
                problems.append("the run succeeded")
            elif not re.search(BAD[step.name].says, why):
                problems.append(f"it was stopped for another reason: {why}")
            if len(moved) > allowed:
                problems.append(f"touched {', '.join(sorted(moved))}")
            if any(before[host]["release"] != after[host]["release"] for host in before):
                problems.append("a host runs another release than before")
            if allowed and (back is None or back > BACK_SECONDS):
                problems.append("not back" if back is None else f"back only after {back:.1f} s")
        else:
            if run.code:
                problems.append(f"the run ended with {run.code}: {why}")
            if len(releases) != 1 or None in releases:
                problems.append("the hosts do not run one release")
            if step.kind in ("deploy", "rollback") and any(before[h]["release"] == after[h]["release"] for h in before):
                problems.append("a host still runs the release before")
        return {
            "kind": step.kind,
            "name": step.name,
            "version": step.version,
            "round": step.round,
            "built": step.built,
            "began": run.began,
            "ended": run.ended,
            "seconds": run.seconds,
            "code": run.code,
            "sentence": why,
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

    def report(self) -> None:
        report.write(self.state, self.folder, ROOT / "docs", list(self.hosts.web))


def main() -> int:
    wanted, rate = int(os.environ.get("REQUESTS") or 0), float(os.environ.get("RATE") or RATE)
    kinds = (os.environ.get("KINDS") or "deploy rollback patch bad").split()
    return conduct(
        lambda lab: Drill(lab, ROOT / ".cache/drill" / lab.name, rate), lambda drill: drill.run(wanted, kinds)
    )


if __name__ == "__main__":
    sys.exit(main())
