"""What a new release must stand before and while it gets visitors."""

from __future__ import annotations

import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from host_processes import processes
from roll_sites import Site, Supervisor, load

memory_limit = load("memory-limit")
PERIOD_SECONDS = 0.5
# So many answers with an error are no accident, whatever the share.
ERRORS_ALLOWED = 2
# A process that ended so often before it was ready will not come up.
STARTS_ALLOWED = 2
# Which worker takes a request is chance: so often there are as many requests as workers, until each has answered one.
ROUNDS = 20


class Bad(Exception):
    """The check that a release has failed, in a sentence without its full stop; and its site, whose log tells why."""

    def __init__(self, site: Site, what: str):
        super().__init__(f"{site.name} {what}")
        self.site = site


def await_ready(sites: list[Site], supervisor: Supervisor, seconds: float, settled: bool) -> None:
    """Until every site can have visitors, and with ``settled`` each of its programs has stayed up as long as supervisor
    wants; sooner where one ends as often as it is started."""
    deadline = time.monotonic() + seconds
    starts: dict[str, set[int]] = {}
    waiting = list(sites)
    while waiting := [site for site in waiting if site.reason(supervisor, True, settled)]:
        for site in waiting:
            for process in supervisor.processes(site.name):
                if process["statename"] in ("BACKOFF", "FATAL", "EXITED"):
                    ended = starts.setdefault(process["name"], set())
                    ended.add(process["stop"])
                    if len(ended) > STARTS_ALLOWED:
                        raise Bad(site, f"does not start: {process['name']} ends each time ({process['description']})")
        if time.monotonic() > deadline:
            site = waiting[0]
            raise Bad(site, f"{site.reason(supervisor, True, settled) or 'came up too late'} after {seconds:g} s")
        time.sleep(0.1)


def workers(site: Site, entries: list[dict]) -> set[int]:
    """The processes that answer the site's requests; ``entries`` is what supervisor says of it."""
    gunicorn = {entry["pid"] for entry in entries if entry["name"] == f"{site.name}-gunicorn"}
    return {process.pid for process in processes().values() if process.parent in gunicorn - {0}}


def broken(site: Site, settings: dict, supervisor: Supervisor, known: Container[str] = ()) -> dict[str, int]:
    """The smoke paths, but for those ``known``, that are not answered well, with their status; 0 is no answer in time.
    They are asked until every worker has answered: one may be bad, or be so soon, and the next not."""

    def ask(path: str) -> int:
        return site.get(path, settings["host"], settings["response_seconds"])[0]

    found: dict[str, int] = {}
    paths = [path for path in settings["smoke_paths"] if path not in known]
    silent, before = workers(site, supervisor.processes(site.name)), site.requests()["workers"]
    at_once = len(silent) or 1
    deadline = time.monotonic() + settings["response_seconds"]
    with ThreadPoolExecutor(at_once) as executor:
        for _ in range(ROUNDS):
            if not (asked := [path for path in paths if path not in found] * at_once):
                break
            for path, status in zip(asked, executor.map(ask, asked), strict=True):
                if not 0 < status < 500:
                    found[path] = status
            now = site.requests()["workers"]
            silent -= {int(worker) for worker, count in now.items() if count > before.get(worker, 0)}
            if not silent or time.monotonic() > deadline:
                break
    return found


def prove(site: Site, settings: dict, supervisor: Supervisor, known: dict[str, int]) -> None:
    """Its smoke paths are answered; what the release before could not answer either is not held against it."""
    for path, status in broken(site, settings, supervisor, known).items():
        said = f"answers with status {status}" if status else f"gives no answer in {settings['response_seconds']} s"
        raise Bad(site, f"{said} to {path}")


class Watch:
    """One site while it gets visitors: answers with errors, workers and processes that were lost or grow too large."""

    def __init__(self, site: Site, supervisor: Supervisor, settings: dict, known: dict[str, int]):
        self.site, self.supervisor, self.settings, self.known = site, supervisor, settings, known
        self.programs = {site.name: site.programs()}
        self.requests = site.requests()
        self.workers = self.processes()
        self.silent = 0

    def processes(self) -> dict[int, str]:
        """The processes that must still be there at the end: each program's own, and gunicorn's workers."""
        entries = self.supervisor.processes(self.site.name)
        found = {entry["pid"]: entry["name"] for entry in entries if entry["pid"]}
        return found | dict.fromkeys(workers(self.site, entries), "a worker of gunicorn")

    def look(self) -> None:
        self.look_at_memory()
        self.look_at_processes()
        self.look_at_answers()

    def look_at_memory(self) -> None:
        """Before memory-limit acts: a program that it stops may end well, and is started again."""
        running = [entry for entry in self.supervisor.processes(self.site.name) if entry["pid"]]
        for excess in memory_limit.excesses(running, self.programs, processes()):
            used, limit = (size // memory_limit.MB for size in (excess.process.rss, excess.program["memory_limit"]))
            raise Bad(self.site, f"grows past a memory limit: {excess.program['name']} uses {used} MB of {limit}")

    def look_at_processes(self) -> None:
        for pid in set(self.workers) - set(self.processes()):
            name = self.workers.pop(pid)
            ends = {entry["name"]: entry["exitstatus"] for entry in self.supervisor.processes(self.site.name)}
            # A program may end by itself, and is started again.
            if name not in ends or ends[name] != 0:
                raise Bad(self.site, f"has lost {name} (process {pid})")

    def look_at_answers(self) -> None:
        live = self.site.health("live")
        self.silent = 0 if live else self.silent + 1
        if self.silent > 1:
            raise Bad(self.site, "does not answer any more")
        if live:
            now = live["requests"]
            answered, failed = (now[name] - self.requests[name] for name in ("answered", "failed"))
            if failed > ERRORS_ALLOWED and 100 * failed > self.settings["error_percent"] * answered:
                raise Bad(self.site, f"answers {failed} of {answered} requests with an error")


def watch(watches: list[Watch], until: float) -> None:
    """Until that moment of the monotonic clock, and once more than that."""
    while time.monotonic() < until:
        for one in watches:
            one.look()
        time.sleep(max(0, min(PERIOD_SECONDS, until - time.monotonic())))
    for one in watches:
        prove(one.site, one.settings, one.supervisor, one.known)
        one.look()
