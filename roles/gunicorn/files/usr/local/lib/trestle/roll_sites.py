"""What site-roll knows of a site on this host: what runs, what is wanted, and how to make one the other."""

from __future__ import annotations

import contextlib
import http.client
import importlib.machinery
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import xmlrpc.client
from pathlib import Path
from typing import NamedTuple

LIB, SRV = Path(__file__).resolve().parent, Path("/srv")
SUPERVISOR_SOCKET = "unix:///run/supervisor.sock"
SUPERVISOR_FILES = ["/etc/supervisor/supervisord.conf", "/etc/systemd/system/supervisor.service.d/trestle.conf"]
CONFIGURATION_FILES = ("environment", "programs.json")


def load(name: str):
    """A program of ours that has no suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(LIB / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


configuration_digest = load("site-start").digest


def output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.strip()


class Supervisor:
    """supervisor, by its own interface: nothing here waits longer than it says."""

    @property
    def rpc(self):
        """A new connection each time: it may have been restarted meanwhile."""
        from supervisor.xmlrpc import SupervisorTransport

        return xmlrpc.client.ServerProxy(
            "http://localhost", SupervisorTransport(None, None, SUPERVISOR_SOCKET)
        ).supervisor

    def processes(self, group: str | None = None) -> list[dict]:
        try:
            return [entry for entry in self.rpc.getAllProcessInfo() if group in (None, entry["group"])]
        except (OSError, xmlrpc.client.Error):
            return []

    def stop(self, groups: list[str], seconds: float | None = None) -> None:
        """All at once, as their programs want to be stopped; with ``seconds``, what is there after them is killed."""
        groups = [group for group in groups if self.processes(group)]
        for group in groups:
            self.rpc.stopProcessGroup(group, False)
        deadline = time.monotonic() + seconds if seconds else float("inf")
        while running := [entry for group in groups for entry in self.processes(group) if entry["pid"]]:
            if time.monotonic() > deadline:
                for entry in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(entry["pid"], signal.SIGKILL)
            time.sleep(0.05)

    def start(self, group: str) -> None:
        if any(entry["statename"] in ("STOPPED", "EXITED", "FATAL") for entry in self.processes(group)):
            self.rpc.startProcessGroup(group, False)

    @staticmethod
    def stale() -> bool:
        """Whether supervisor's own configuration is newer than the process."""
        pid = output("systemctl", "show", "--property=MainPID", "--value", "supervisor")
        started = os.stat(f"/proc/{pid}").st_mtime if pid not in ("", "0") else 0
        return any(os.stat(path).st_mtime > started for path in SUPERVISOR_FILES if os.path.exists(path))

    def pending(self) -> list[str]:
        """What its list of programs has that it does not run yet, or why that cannot be told."""
        try:
            changes = self.rpc.reloadConfig()[0]
        except (OSError, xmlrpc.client.Error) as error:
            return [f"{error}"]
        told = zip(("available", "changed", "disappeared"), changes, strict=True)
        return [f"{group}: {what}" for what, groups in told for group in groups]


class Setup(NamedTuple):
    """What a site's programs are started from: a release and a configuration, as targets of two links."""

    release: str
    configuration: str


class Site:
    """``NAME=ID`` is a site and its wanted release; without =ID it is the one that runs."""

    def __init__(self, argument: str, srv: Path = SRV):
        self.name, _, wanted = argument.partition("=")
        self.root = srv / self.name
        self.wanted = wanted or Path(self.setup().release).name
        self.digest = configuration_digest(self.root / "etc")

    def want(self, setup: Setup) -> None:
        """From now on that is what is wanted; nothing, where it is empty."""
        self.wanted = Path(setup.release).name
        if setup.configuration:
            self.digest = configuration_digest(self.root / setup.configuration)

    def setup(self) -> Setup:
        """What its programs are started from now; empty where they never were."""
        links = (self.root / "current", self.root / "configuration")
        return Setup(*(os.readlink(link) if link.is_symlink() else "" for link in links))

    def wanted_setup(self) -> Setup:
        """The wanted release, with a copy of the wanted configuration: what Ansible writes next must not reach a
        program that happens to be started, and there must be something to go back to."""
        folder = self.root / "configurations" / self.digest
        folder.mkdir(parents=True, exist_ok=True)
        for name in CONFIGURATION_FILES:
            unfinished = folder / f".{name}"
            shutil.copy2(self.root / "etc" / name, unfinished)
            shutil.chown(unfinished, "root", (self.root / "etc" / name).group())
            unfinished.rename(folder / name)
        return Setup(f"releases/{self.wanted}", f"configurations/{self.digest}")

    def switch(self, setup: Setup) -> None:
        """Point at it. A link is replaced in one step, and left alone where it is right: the disk may be full."""
        now = self.setup()
        # What ran is what one goes back to.
        kept = {Path(setup.configuration).name, Path(now.configuration).name, self.digest}
        for link, target, before in zip(("current", "configuration"), setup, now, strict=True):
            if target and target != before:
                new = self.root / f".{link}"
                new.unlink(missing_ok=True)
                new.symlink_to(target)
                new.rename(self.root / link)
        for folder in (self.root / "configurations").iterdir():
            # One more than is needed: an earlier roll may have stopped between its two links.
            if folder.name not in kept and folder.stat().st_mtime < time.time() - 24 * 60 * 60:
                shutil.rmtree(folder)

    def leave(self) -> None:
        """Point at nothing, as before its first release."""
        for link in ("current", "configuration"):
            (self.root / link).unlink(missing_ok=True)

    def get(self, path: str, host: str = "", timeout: float = 2) -> tuple[int, bytes]:
        """Status and body of an answer of this site's gunicorn; status 0 where there is none."""
        lines = shlex.split((self.root / "etc/environment").read_text(), comments=True)
        address, port = dict(line.split("=", 1) for line in lines)["GUNICORN_BIND"].rsplit(":", 1)
        connection = http.client.HTTPConnection(address, int(port), timeout=timeout)
        headers = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-Host": host} if host else {}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def health(self, path: str) -> dict | None:
        """The JSON of /health/live or /health/ready, or None."""
        try:
            said = json.loads(self.get(f"/health/{path}")[1])
        except ValueError:
            return None
        return said if isinstance(said, dict) else None

    def requests(self) -> dict:
        """What /health/live counts; nothing where there is no answer."""
        return {"answered": 0, "failed": 0, "workers": {}} | (self.health("live") or {}).get("requests", {})

    def reason(self, supervisor: Supervisor, ready: bool = False, settled: bool = False) -> str:
        """Why this site must be restarted; with ``ready`` also why it cannot have visitors yet, and with ``settled``
        why a program beside gunicorn may still end as soon as it was started; or nothing."""
        if not self.wanted:
            return ""
        live = self.health("live")
        if live is None:
            return "does not answer"
        if reason := self.difference(live.get("release"), live.get("digest")):
            return reason
        for process in supervisor.processes(self.name):
            # gunicorn has answered for itself.
            if process["name"] != f"{self.name}-gunicorn" and (reason := self.reason_of(process, settled)):
                return f"{process['name']} {reason}"
        if ready:
            answer = self.health("ready")
            reasons = ["no answer"] if answer is None else answer.get("reasons", [])
            others = [reason for reason in reasons if reason != "drained"]
            return f"is not ready: {', '.join(others)}" if others else ""
        return ""

    def difference(self, release: str | None, digest: str | None) -> str:
        if release != self.wanted:
            return f"runs release {release}, wanted is {self.wanted}"
        return "runs with an earlier configuration" if digest != self.digest else ""

    def reason_of(self, process: dict, settled: bool) -> str:
        """The same of one process. One that ended and is started again is as it should be, but not yet settled."""
        if process["statename"] == "STARTING" and not settled:
            return ""
        if process["statename"] != "RUNNING":
            return f"is {process['statename']}, not RUNNING"
        started = environ(process["pid"])
        return self.difference(started.get("RELEASE"), started.get("TRESTLE_DIGEST"))

    def programs(self) -> list[dict]:
        return json.loads((self.root / "etc/programs.json").read_text())

    def log(self, since: float, lines: int = 40) -> list[str]:
        """The last of what its programs said since that moment."""
        names = [f"--identifier={self.name}-{program['name']}" for program in self.programs()]
        since = f"--since=@{since:.0f}"
        return output("journalctl", "--no-pager", f"--lines={lines}", "-o", "short-iso", since, *names).splitlines()


def environ(pid: int) -> dict[str, str]:
    """What a process was started with."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
