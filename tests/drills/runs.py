"""Runs of Ansible with the moment of everything they said, and what their seconds were spent on."""

from __future__ import annotations

import re
import signal
import subprocess
import textwrap
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lab.demo import BIN, ROOT, to_be_read

# A run that takes longer hangs.
MOST_SECONDS = 1800


@dataclass
class Run:
    """A run that has ended."""

    began: float
    ended: float = 0.0
    code: int = -1
    output: str = ""
    # The moment at which each play began, and its name.
    plays: list[tuple[float, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def play(env_name: str, log: Path, *arguments: str, fast: bool = False) -> Run:
    """A run against the lab; ``fast`` takes the accelerator."""
    command = [str(BIN / "ansible-playbook"), "-i", env_name, "-i", "lab", *arguments]
    run, lines = Run(time.time()), []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=to_be_read(fast),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A Ctrl-C is told to it once, by us.
        start_new_session=True,
    )
    try:
        with log.open("w", buffering=1) as out:
            out.write(f"{' '.join(command)}\n")
            for line in process.stdout:
                out.write(f"{time.time() - run.began:7.1f} {line}")
                lines.append(line)
                if line.startswith("PLAY ["):
                    run.plays.append((time.time(), line[6 : line.rindex("]")]))
                if time.time() - run.began > MOST_SECONDS:
                    process.terminate()
        run.code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(120)
        raise
    run.ended, run.output = time.time(), "".join(lines)
    return run


def sentence(output: str) -> str:
    """Why a run failed, as it said it first, without the log lines that follow."""
    for block in re.findall(r"^(?:fatal|failed): \[.*=> *\n((?:[ \t].*\n|\n)+)", output, re.MULTILINE):
        with suppress(yaml.YAMLError):
            told = yaml.safe_load(textwrap.dedent(block))
            text = str(told.get("msg") or "")
            if text == "non-zero return code":
                text = (str(told.get("stderr") or told.get("stdout") or "").splitlines() or [text])[-1]
            return " ".join(text.partition("The last of its logs:")[0].split())
    errors = re.findall(r"^\[ERROR\]: (.+)", output, re.MULTILINE)
    return errors[0] if errors else ""


# What a play of that name is about.
PARTS = (
    ("checking", r"^Check the inventory|^Take the run lock|^Give the run lock back"),
    ("building", r"^Build"),
    ("preparing", r"^Prepare|^Have the release"),
    ("rolling", r"^Compare|^Roll"),
    ("recording", r"^Declare"),
    ("crawling", r"^Crawl"),
)


def shares(run: Run, events: list[dict]) -> dict[str, float]:
    """The seconds of a run by what they were spent on; those of a roll are in the hosts' journals."""
    moments = [*(moment for moment, _ in run.plays), run.ended]
    found: dict[str, float] = {"starting Ansible": moments[0] - run.began}
    for (began, name), ended in zip(run.plays, moments[1:], strict=True):
        part = next((part for part, pattern in PARTS if re.search(pattern, name)), "the rest")
        found[part] = found.get(part, 0.0) + ended - began
    on_hosts = roll_seconds(events)
    rolling = found.pop("rolling", 0.0)
    return {**found, **on_hosts, "Ansible between the hosts": max(0.0, rolling - sum(on_hosts.values()))}


# From a step of a roll to the next one: what that time is.
STEPS = {
    ("begun", "drained"): "draining",
    ("drained", "stopped"): "ending requests in flight",
    ("stopped", "started"): "restarting",
    ("started", "ready"): "restarting",
    ("ready", "canary"): "giving back",
    ("canary", "restored"): "watching the canary",
    ("ready", "restored"): "giving back",
}


def roll_seconds(events: list[dict]) -> dict[str, float]:
    found: dict[str, float] = {}
    last: dict[str, dict] = {}
    for event in events:
        before = last.get(event["host"])
        if before and (part := STEPS.get((before["what"], event["what"]))):
            found[part] = found.get(part, 0.0) + event["at"] - before["at"]
        if event["what"].partition(":")[0] in {"begun", "drained", "stopped", "started", "ready", "canary", "restored"}:
            last[event["host"]] = event
    return found


def back_seconds(events: list[dict]) -> float | None:
    """From the failed check to the moment at which the host serves what it had before."""
    for number, event in enumerate(events):
        if event["what"].startswith("back: "):
            for later in events[number:]:
                if later["host"] == event["host"] and later["what"] == "restored":
                    return later["at"] - event["at"]
            return float("inf")
    return None
