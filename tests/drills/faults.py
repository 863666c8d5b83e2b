"""`make drill`: faults on every tier, one after another, while visitors come at a steady rate.

ROUNDS=1 rounds of all of them, or FAULT="db-primary-kill web-pause" alone; GAME=60 deals random ones for so many
minutes (SEED= deals the same again); RATE=40 requests a second. What was done is kept in .cache/faults/: the same
command goes on where it stopped. docs/drills.md is written anew.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
import time
from collections.abc import Iterator

from lab import containers, demo, redundancy
from lab.__main__ import tiers_of
from tests.drills import faults_report, judge
from tests.drills.ledger import missing_files, read
from tests.drills.load import MIX, content_of
from tests.drills.rounds import RATE, ROUND_SECONDS, Rounds, conduct
from tests.drills.strike import put_back, strike
from tests.drills.table import BY_NAME, FAULTS, Fault, alike, deal, hit, roles, too_few
from tests.drills.versions import ROOT

# Only the releases of the drill of deploys have slow pages.
USUAL = {kind: share for kind, share in MIX.items() if kind != "slow"}
# Before the first fault, and after each, when all is whole again.
SETTLE_SECONDS = 5
WHOLE_SECONDS = 300
LOOK_SECONDS = 1
# Long drills have several rounds: a load ends by itself at some time.
COMPARE_SECONDS = ROUND_SECONDS / 2


def plan(ask: dict) -> Iterator[tuple[Fault, float]]:
    """The faults that are asked for, each with its share of the usual time until the host is put back."""
    if ask["minutes"]:
        return deal(ask["seed"])
    return ((BY_NAME[name], 1.0) for _ in range(ask["rounds"]) for name in ask["faults"])


class Drill(Rounds):
    """The steps of its state are faults; ``run`` is the number of the command that a step or a round belongs to."""

    def what_hosts_are(self) -> dict[str, set[str]]:
        views = redundancy.look(self.lab)
        leaders = {view.leader() for view in views.values()}
        holders = redundancy.holders(views, self.lab.front_address())
        return {name: roles(view.tiers, name in leaders, name in holders) for name, view in views.items()}

    def take(self, fault: Fault, share: float = 1.0) -> dict:
        """One fault under the load, until all is whole again. Hosts that are the same take their turns."""
        are = self.what_hosts_are()
        names = sorted(name for name, its in are.items() if fault.role in its)
        host = names[len(self.state["steps"]) % len(names)]
        container, its = self.lab.containers()[host], alike(fault, are[host])
        hold = share * max(one.hold for one in its)
        step = {
            "name": fault.name,
            "host": host,
            "hit": sorted(hit(fault, are[host])),
            "window": max(one.window for one in its),
            "run": self.state.get("run", 0),
            "ledger": self.state["open"]["ledger"],
            "began": time.time(),
            **dict.fromkeys(("back", "whole", "ended")),
            "lacking": [],
        }
        self.state["steps"].append(step)
        self.save()
        try:
            strike(self.lab, container, fault.act)
            time.sleep(hold)
        finally:
            put_back(self.lab, container)
        step["back"] = time.time() if hold else step["began"]
        step["whole"], step["lacking"] = self.wait_until_whole()
        if step["lacking"]:
            self.save()
            raise containers.LabError(f"{fault.name} ({host}): not whole again: {'; '.join(step['lacking'])}")
        time.sleep(SETTLE_SECONDS)
        step["ended"] = time.time()
        self.save()
        tally = self.load.next_tally()
        self.say(
            f"{host} ({', '.join(step['hit'])}): whole after {step['whole'] - step['back']:.0f} s; {tally.requests} "
            f"requests, {tally.failed.total()} failed, {tally.first_failures} failed before the retry"
        )
        return step

    def wait_until_whole(self) -> tuple[float | None, list[str]]:
        """When it was, seen twice in a row, since what is gone is not noticed at once; or what is lacking still."""
        deadline, since = time.time() + WHOLE_SECONDS, None
        while True:
            time.sleep(LOOK_SECONDS)
            lacking = redundancy.missing(self.lab)
            if lacking and time.time() > deadline:
                return None, lacking
            if since and not lacking:
                return since, []
            since = None if lacking else time.time()

    def mend(self) -> None:
        """Every host is put back, whatever was left of it, and the environment is whole."""
        for container in self.lab.containers().values():
            put_back(self.lab, container)
        if lacking := self.wait_until_whole()[1]:
            raise containers.LabError(f"The environment is not whole: {'; '.join(lacking)}")

    def end(self) -> dict:
        """Of an environment that does not become whole, what there is is compared."""
        if not any(step["lacking"] for step in self.state["steps"][-1:]):
            self.mend()
        return super().end()

    def close(self, opened: dict) -> dict:
        """With the figures of every fault."""
        closed = super().close(opened)
        steps = [step for step in self.state["steps"] if step["ledger"] == opened["ledger"]]
        shared = judge.share_out(read(self.folder / opened["ledger"]), steps)
        allowed, lost = judge.windows(steps), set(closed.get("lost", []))
        for step, records in zip(steps, shared, strict=True):
            step |= judge.figures(records, step, allowed, lost)
            for record in step["examples"]:
                if closed["compared"] and record["host"] in self.hosts.web:
                    record["why"] = self.hosts.last_error(record["host"], record["due"], record["ended"])
            step["problems"] = judge.problems(step)
        return closed | {"run": self.state.get("run", 0), "seed": self.state.get("ask", {}).get("what", {}).get("seed")}

    def compare_files(self, name: str, acknowledged: dict[str, str], pictures: dict[str, str]) -> dict:
        """What visitors get back, and what each media host holds by itself."""
        sent = {
            pictures[token]: hashlib.sha256(content_of(kind, token)).hexdigest()
            for token, kind in acknowledged.items()
            if token in pictures
        }
        files = {"files": len(sent), "files_wrong": missing_files(sent, self.hosts.held(name))}
        return super().compare_files(name, acknowledged, pictures) | files

    # All of it.

    def run(self, ask: dict) -> None:
        """What is asked for, from where an earlier command that asked for the same was stopped."""
        if "open" in self.state:
            self.say("a round was cut short: closing it")
            self.end()
        before = self.state.get("ask")
        if not before or before["what"] != ask | {"seed": ask["seed"] or before["what"]["seed"]}:
            ask = ask | {"seed": ask["seed"] or random.randrange(10**6)}
            self.state |= {"ask": {"what": ask, "done": 0, "seconds": 0.0}, "run": self.state.get("run", 0) + 1}
            self.state["games"] = self.state.get("games", []) + ([self.state["run"]] if ask["minutes"] else [])
        asked = self.state["ask"]
        if asked["what"]["minutes"]:
            self.say(f"a game of {asked['what']['minutes']:g} minutes: SEED={asked['what']['seed']} deals it again")
        demo.step("look whether all is whole", self.mend)
        began = self.begin_usual()
        for fault, share in itertools.islice(plan(asked["what"]), asked["done"], None):
            if asked["what"]["minutes"] and asked["seconds"] >= 60 * asked["what"]["minutes"]:
                break
            if time.time() > began + COMPARE_SECONDS:
                demo.step("compare what was written with what is there", self.end)
                began = self.begin_usual()
            step = demo.step(fault.name, lambda f=fault, s=share: self.take(f, s))
            asked["done"], asked["seconds"] = asked["done"] + 1, asked["seconds"] + step["ended"] - step["began"]
            self.save()
        demo.step("compare what was written with what is there", self.end)
        del self.state["ask"]
        self.save()

    def begin_usual(self) -> float:
        """Begin a round, and tell when."""
        began = time.time()
        self.begin(USUAL)
        time.sleep(SETTLE_SECONDS)
        return began

    def verdict(self) -> list[str]:
        """What was not as it should be in the run of this command."""
        of_run = [[one for one in self.state[part] if one["run"] == self.state["run"]] for part in ("steps", "rounds")]
        return judge.verdict(*of_run)

    def good(self) -> bool:
        for problem in (found := self.verdict()):
            self.say(f"NOT AS IT SHOULD BE: {problem}")
        return not found

    def report(self) -> None:
        faults_report.write(self.state, self.folder, ROOT / "docs")


def asked(environment: dict[str, str]) -> dict:
    names = (environment.get("FAULT") or " ".join(fault.name for fault in FAULTS)).split()
    if unknown := [name for name in names if name not in BY_NAME]:
        raise containers.LabError(f"There is no fault {', '.join(unknown)}: FAULT is of {' '.join(BY_NAME)}.")
    return {
        "faults": names,
        "rounds": int(environment.get("ROUNDS") or 1),
        "minutes": float(environment.get("GAME") or 0),
        "seed": int(environment.get("SEED") or 0),
    }


def main() -> int:
    try:
        ask = asked(dict(os.environ))
        if few := too_few(tiers_of(os.environ.get("ENV", "production"))):
            raise containers.LabError(f"{', '.join(few)}: there are no hosts to spare, which the drill needs.")
    except containers.LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rate = float(os.environ.get("RATE") or RATE)
    return conduct(lambda lab: Drill(lab, ROOT / ".cache/faults" / lab.name, rate), lambda drill: drill.run(ask))


if __name__ == "__main__":
    sys.exit(main())
