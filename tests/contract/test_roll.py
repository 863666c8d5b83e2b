"""The checks that a new release must stand, and the way back: roles/gunicorn's site-roll, on real files and answers."""

from __future__ import annotations

import http.server
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import xmlrpc.client
from pathlib import Path
from types import SimpleNamespace

import programs
import pytest

ROLE = Path(__file__).resolve().parents[2] / "roles/gunicorn"
spec = importlib.util.spec_from_file_location("deploys", ROLE / "filter_plugins/deploys.py")
deploys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(deploys)

SETTINGS = {"host": "shop.example.com", "smoke_paths": ["/"], "response_seconds": 0.5, "error_percent": 5}


@pytest.fixture(scope="module")
def roll():
    return programs.load("gunicorn", "site-roll")


@pytest.fixture(scope="module")
def checks(roll):
    return sys.modules["roll_watch"]


@pytest.fixture
def gunicorn():
    """A server in gunicorn's place: ``answers`` maps a path to (status, body), to seconds of silence, or to a
    function that gives one of those; ``hosts`` are those that visitors' paths were asked of."""
    answers = {"/": (200, b"home"), "/health/live": (200, b"{}"), "/health/ready": (200, b"{}")}
    hosts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers[self.path]
            if callable(answer):
                answer = answer()
            if not self.path.startswith("/health/"):
                hosts.append(self.headers["Host"])
            if isinstance(answer, float):
                time.sleep(answer)
                answer = (200, b"late")
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.answers, server.hosts = answers, hosts
        yield server
        server.shutdown()


@pytest.fixture
def site(roll, gunicorn, tmp_path, monkeypatch):
    """site(argument): a site, whose digest is what its environment file says last."""
    module = sys.modules["roll_sites"]
    monkeypatch.setattr(
        module, "configuration_digest", lambda folder: (folder / "environment").read_text().split("=")[-1]
    )
    monkeypatch.setattr(module.shutil, "chown", lambda *_: None)

    def make(argument: str = "shop=a1"):
        etc = tmp_path / argument.partition("=")[0] / "etc"
        if not etc.exists():
            etc.mkdir(parents=True)
            (etc / "environment").write_text(f"GUNICORN_BIND=127.0.0.1:{gunicorn.server_port}\nVALUE=one")
            (etc / "programs.json").write_text('[{"name": "gunicorn", "memory_limit": null}]')
        return module.Site(argument, tmp_path)

    return make


class Supervisor:
    """What supervisor says of its processes."""

    def __init__(self, *entries: dict):
        self.entries = list(entries)

    def processes(self, group=None):
        return self.entries

    def stale(self):
        return False

    def pending(self):
        return []


def entry(**changes) -> dict:
    usual = {"group": "shop", "name": "shop-gunicorn", "statename": "RUNNING", "pid": os.getpid(), "stop": 0}
    return usual | {"exitstatus": 0, "description": "exited"} | changes


# Switching


def test_what_runs_is_a_copy_that_later_changes_do_not_reach(site):
    shop = site()
    shop.switch(shop.wanted_setup())
    (shop.root / "etc/environment").write_text("VALUE=two")
    assert (shop.root / "configuration/environment").read_text().endswith("VALUE=one")
    assert os.readlink(shop.root / "current") == "releases/a1"


def test_there_is_a_way_back_to_release_and_configuration(site):
    first = site()
    first.switch(first.wanted_setup())
    before = first.setup()
    (first.root / "etc/environment").write_text("VALUE=two")
    second = site("shop=b2")
    second.switch(second.wanted_setup())
    assert second.setup().release == "releases/b2" != before.release
    assert (second.root / "configuration/environment").read_text() == "VALUE=two"
    second.switch(before)
    second.want(before)
    assert (second.wanted, second.digest) == ("a1", "one")
    assert (second.root / "configuration/environment").read_text().endswith("VALUE=one")


def test_the_way_back_is_there_however_long_ago_that_configuration_was_made(site):
    first = site()
    first.switch(first.wanted_setup())
    before = first.setup()
    folder = first.root / before.configuration
    os.utime(folder, (0, 0))
    (first.root / "etc/environment").write_text("VALUE=two")
    second = site("shop=b2")
    second.switch(second.wanted_setup())
    second.want(before)
    assert (second.wanted, second.digest) == ("a1", "one")
    second.switch(before)
    (first.root / "etc/environment").write_text("VALUE=three")
    for release in ("c3", "d4"):
        later = site(f"shop={release}")
        later.switch(later.wanted_setup())
    assert not folder.exists(), "in the end it goes"


def test_what_ran_and_is_gone_leaves_the_host_drained_and_is_said(site, rolled, roll, monkeypatch):
    shop = site()
    shop.switch(shop.wanted_setup())
    shop.wanted = "a2"
    once = rolled([shop])
    monkeypatch.setattr(once, "show", lambda _: (_ for _ in ()).throw(roll.Bad(shop, "answers with status 500 to /")))
    monkeypatch.setattr(shop, "log", lambda since: [])
    monkeypatch.setattr(shop, "want", lambda setup: (_ for _ in ()).throw(FileNotFoundError("environment")))
    said = once.run()
    assert said["failed"] == "shop answers with status 500 to /" and said["back"] is False


def test_a_site_without_a_wanted_release_keeps_the_one_that_runs(site):
    site().switch(site().wanted_setup())
    assert site("shop").wanted == "a1"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([[[], [], []]], []),
        ([[["shop"], ["blog"], ["old"]]], ["shop: available", "blog: changed", "old: disappeared"]),
        (xmlrpc.client.Fault(92, "CANT_REREAD: no command"), ["<Fault 92: 'CANT_REREAD: no command'>"]),
        (FileNotFoundError("no socket"), ["no socket"]),
    ],
)
def test_what_supervisor_does_not_run_yet_or_cannot_read_is_a_reason(roll, monkeypatch, answer, told):
    class Rpc:
        def reloadConfig(self):
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(roll.Supervisor, "rpc", Rpc())
    assert roll.Supervisor().pending() == told


# Before visitors


def test_what_is_not_what_is_wanted_is_told(site, gunicorn):
    shop = site()
    gunicorn.answers["/health/live"] = (200, json.dumps({"release": "a0", "digest": "one"}).encode())
    assert shop.reason(Supervisor()) == "runs release a0, wanted is a1"
    gunicorn.answers["/health/live"] = (200, json.dumps({"release": "a1", "digest": "zero"}).encode())
    assert shop.reason(Supervisor()) == "runs with an earlier configuration"
    gunicorn.answers["/health/live"] = (200, json.dumps({"release": "a1", "digest": "one"}).encode())
    assert shop.reason(Supervisor(), ready=True) == ""
    gunicorn.answers["/health/ready"] = (503, json.dumps({"reasons": ["drained"]}).encode())
    assert shop.reason(Supervisor(), ready=True) == "", "that it is drained is no fault of its release"


def test_a_program_that_ends_each_time_is_not_waited_for(site, checks):
    supervisor = Supervisor(entry(statename="BACKOFF", pid=0))
    supervisor.processes = lambda group=None: [entry(statename="BACKOFF", pid=0, stop=time.monotonic_ns())]
    begun = time.monotonic()
    with pytest.raises(checks.Bad, match="shop does not start: shop-gunicorn ends each time"):
        checks.await_ready([site()], supervisor, 30, settled=False)
    assert time.monotonic() - begun < 5


def test_what_never_is_ready_is_given_up(site, checks):
    with pytest.raises(checks.Bad, match=r"shop runs release None, wanted is a1 after 0\.3 s"):
        checks.await_ready([site()], Supervisor(entry()), 0.3, settled=False)


def test_a_program_that_answers_nobody_holds_visitors_up_only_until_it_has_stayed_up(site, gunicorn):
    shop = site()
    gunicorn.answers["/health/live"] = (200, json.dumps({"release": "a1", "digest": "one"}).encode())
    starting = Supervisor(entry(), entry(name="shop-tidy", statename="STARTING"))
    assert shop.reason(starting) == ""
    assert shop.reason(starting, ready=True, settled=True) == "shop-tidy is STARTING, not RUNNING"
    failing = Supervisor(entry(), entry(name="shop-tidy", statename="BACKOFF", pid=0))
    assert shop.reason(failing) == shop.reason(failing, ready=True) == "shop-tidy is BACKOFF, not RUNNING"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b""), "answers with status 500 to /"),
        ((503, b""), "answers with status 503"),
        (2.0, "gives no answer in 0.5 s"),
    ],
)
def test_a_smoke_path_that_is_not_answered_well(site, checks, gunicorn, answer, said):
    gunicorn.answers["/"] = answer
    with pytest.raises(checks.Bad, match=said):
        checks.prove(site(), SETTINGS, Supervisor(), {})
    assert gunicorn.hosts == ["shop.example.com"]
    checks.prove(site(), SETTINGS, Supervisor(), {"/": 500})  # nor did the release before


@pytest.mark.parametrize("status", [200, 302, 404])
def test_a_smoke_path_that_is_answered(site, checks, gunicorn, status):
    gunicorn.answers["/"] = (status, b"")
    checks.prove(site(), SETTINGS, Supervisor(), {})


@pytest.fixture
def workers(gunicorn):
    """Two processes as gunicorn's workers, of which the first answers three requests in four; ``answers`` maps each to
    what it answers."""
    found = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    counts, turns = {worker.pid: 0 for worker in found}, itertools.count(1)

    def answer():
        worker = found[next(turns) % 4 == 0].pid
        said = gunicorn.workers[worker]
        if not isinstance(said, float):
            counts[worker] += 1
        return said

    gunicorn.workers = {worker.pid: (200, b"") for worker in found}
    gunicorn.answers["/"] = answer
    gunicorn.answers["/health/live"] = lambda: (200, json.dumps({"requests": {"workers": counts}}).encode())
    yield gunicorn.workers
    for worker in found:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize(
    ("answer", "said"), [((500, b""), "answers with status 500 to /"), (2.0, r"gives no answer in 0\.5 s to /")]
)
def test_every_worker_is_asked(site, checks, gunicorn, workers, answer, said):
    checks.prove(site(), SETTINGS, Supervisor(entry()), {})
    assert 4 <= len(gunicorn.hosts) <= 8, "until the second has answered, and no longer"
    workers[list(workers)[1]] = answer
    with pytest.raises(checks.Bad, match=said):
        checks.prove(site(), SETTINGS, Supervisor(entry()), {})
    asked = len(gunicorn.hosts)
    checks.prove(site(), SETTINGS, Supervisor(entry()), {"/": 500})
    assert len(gunicorn.hosts) == asked, "what was broken before is not asked, and so not counted as its errors"


def test_a_worker_that_takes_no_request_is_not_waited_for(site, checks, gunicorn, workers):
    idle = subprocess.Popen(["sleep", "60"])
    begun = time.monotonic()
    checks.prove(site(), SETTINGS | {"response_seconds": 30}, Supervisor(entry()), {})
    idle.kill()
    idle.wait()
    assert time.monotonic() - begun < 10 and len(gunicorn.hosts) < 100


# With visitors


def counted(answered: int, failed: int) -> tuple[int, bytes]:
    return 200, json.dumps({"requests": {"answered": answered, "failed": failed}}).encode()


@pytest.mark.parametrize(
    ("answered", "failed", "bad"),
    [(100, 0, False), (2, 2, False), (3, 3, True), (100, 5, False), (100, 6, True), (10_000, 400, False)],
)
def test_the_share_of_errors_decides(site, checks, gunicorn, answered, failed, bad):
    gunicorn.answers["/health/live"] = counted(50, 20)
    watch = checks.Watch(site(), Supervisor(entry()), SETTINGS, {})
    gunicorn.answers["/health/live"] = counted(50 + answered, 20 + failed)
    if bad:
        with pytest.raises(checks.Bad, match=f"answers {failed} of {answered} requests with an error"):
            watch.look()
    else:
        watch.look()


def test_a_worker_that_is_lost(site, checks, gunicorn):
    gunicorn.answers["/health/live"] = counted(0, 0)
    worker = subprocess.Popen(["sleep", "60"])
    watch = checks.Watch(site(), Supervisor(entry()), SETTINGS, {})
    watch.look()
    worker.kill()
    worker.wait()
    with pytest.raises(checks.Bad, match=f"has lost a worker of gunicorn .process {worker.pid}"):
        watch.look()


@pytest.mark.parametrize(("status", "bad"), [(1, True), (0, False)])
def test_another_program_may_end_by_itself_but_not_fail(site, checks, gunicorn, status, bad):
    gunicorn.answers["/health/live"] = counted(0, 0)
    supervisor = Supervisor(entry(name="shop-tidy", pid=4_000_000))
    watch = checks.Watch(site(), supervisor, SETTINGS, {})
    supervisor.entries = [entry(name="shop-tidy", pid=0, statename="EXITED", exitstatus=status)]
    if bad:
        with pytest.raises(checks.Bad, match="has lost shop-tidy"):
            watch.look()
    else:
        watch.look()


@pytest.mark.parametrize(("limit", "bad"), [(1, True), (2**50, False), (None, False)])
def test_a_program_that_grows_past_its_limit_and_would_end_well(site, checks, gunicorn, limit, bad):
    gunicorn.answers["/health/live"] = counted(0, 0)
    shop = site()
    (shop.root / "etc/programs.json").write_text(json.dumps([{"name": "tidy", "memory_limit": limit}]))
    watch = checks.Watch(shop, Supervisor(entry(name="shop-tidy")), SETTINGS, {})
    if bad:
        with pytest.raises(checks.Bad, match=r"shop grows past a memory limit: tidy uses \d+ MB of 0"):
            watch.look()
    else:
        watch.look()


def test_silence_is_noticed_at_the_second_time(site, checks, gunicorn):
    gunicorn.answers["/health/live"] = counted(0, 0)
    watch = checks.Watch(site(), Supervisor(entry()), SETTINGS, {})
    gunicorn.answers["/health/live"] = (200, b"not what it was")
    watch.look()
    with pytest.raises(checks.Bad, match="does not answer any more"):
        watch.look()


def test_the_watch_takes_the_time_that_it_is_given_and_no_more(checks, monkeypatch):
    clock, looks = [100.0], []
    monkeypatch.setattr(checks.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checks.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(checks, "prove", lambda *_: None)
    one = SimpleNamespace(look=lambda: looks.append(clock[0]), site=None, settings={}, supervisor=None, known={})
    checks.watch([one], 101.2)
    assert looks == [100, 100.5, 101, 101.2]


@pytest.fixture
def rolled(roll, monkeypatch, tmp_path):
    """rolled(sites, canary): a roll that starts nothing and waits for nobody; ``watched`` are its seconds of watch."""
    monkeypatch.setattr(roll, "Supervisor", Supervisor)
    monkeypatch.setattr(roll, "STATE", tmp_path)
    for name in ("DRAIN", "CANARY", "UNCRAWLED", "PROGRAMS", "PROGRAMS_THAT_RAN"):
        monkeypatch.setattr(roll, name, tmp_path / name)
    watched = []
    monkeypatch.setattr(roll, "watch", lambda watches, seconds: watched.append(seconds))
    monkeypatch.setattr(roll, "await_ready", lambda *_, **__: None)
    monkeypatch.setattr(roll.Pool, "change", lambda *_: {})

    def make(sites: list, canary: bool = True):
        settings = {"canary_seconds": 10, "start_seconds": 1, "sites": {each.name: SETTINGS for each in sites}}
        once = roll.Roll(sites, settings, roll.Pool(sites, []), canary)
        once.watched = watched
        monkeypatch.setattr(once, "reasons", lambda: ["shop: does not answer"])
        monkeypatch.setattr(once, "start", lambda setups, seconds=None: switch_all(setups))
        return once

    def switch_all(setups: dict) -> None:
        for each, setup in setups.items():
            each.switch(setup)

    return make


@pytest.mark.parametrize(
    ("canary", "order"),
    [(True, ["out", "tried", "settled", "in", "in", "in"]), (False, ["out", "tried", "in", "settled"])],
)
def test_it_is_tried_while_its_programs_start_and_a_canary_waits_for_them(
    site, rolled, roll, monkeypatch, canary, order
):
    done = []
    once = rolled([site()], canary)
    monkeypatch.setattr(roll, "await_ready", lambda *_, settled: done.append("settled") if settled else None)
    monkeypatch.setattr(roll, "prove", lambda *_: done.append("tried"))
    monkeypatch.setattr(roll.Pool, "change", lambda _, flag, raised, *__: done.append("out" if raised else "in") or {})
    assert once.run()["changed"] is True
    assert done == order


def test_what_is_broken_already_is_asked_while_the_load_balancers_take_note(site, gunicorn, rolled, roll, monkeypatch):
    gunicorn.answers["/health/live"] = (200, b'{"release": "a0"}')
    draining, asked = threading.Event(), threading.Event()
    once, known = rolled([site()]), []

    def broken(*_) -> dict:
        asked.set()
        return {"/": 500} if draining.wait(5) else {}

    def change(_, flag, raised, *__) -> dict:
        draining.set()
        assert asked.wait(5), "it waits for the drain"
        return {}

    monkeypatch.setattr(roll, "broken", broken)
    monkeypatch.setattr(roll.Pool, "change", change)
    monkeypatch.setattr(roll, "prove", lambda *arguments: known.append(arguments[-1]))
    assert once.run()["changed"] is True
    assert known[0] == {"/": 500}, "and not before it begins"


@pytest.mark.parametrize("canary", [True, False])
def test_a_host_without_an_earlier_release_is_watched_too(site, rolled, canary):
    """It is a canary where others serve: deploys.canaries."""
    once = rolled([site()], canary)
    assert once.run()["changed"] is True
    assert bool(once.watched) == canary


@pytest.mark.parametrize(("seen_after", "left"), [(0, 5), (1, 4), (8, 2.5)])
def test_the_watch_begins_with_the_first_visitor_and_is_long_enough_for_the_last(
    site, rolled, roll, monkeypatch, seen_after, left
):
    clock = [1000.0]
    monkeypatch.setattr(roll.time, "monotonic", lambda: clock[0])

    def change(*_) -> dict:
        clock[0] += seen_after
        return {}

    once, seconds = rolled([site()]), []
    monkeypatch.setattr(roll.Pool, "change", change)
    monkeypatch.setattr(roll, "watch", lambda watches, until: seconds.append(until - clock[0]))
    assert once.run()["changed"] is True
    assert seconds == [left, left]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), xmlrpc.client.Fault(90, "NO_FILE")])
def test_what_fails_on_the_way_is_a_failed_check_and_goes_back(site, rolled, monkeypatch, error):
    shop = site()
    shop.switch(shop.wanted_setup())
    before, shop.wanted = shop.setup(), "a2"
    once = rolled([shop])
    start, calls = once.start, []

    def fails_at_first(setups, seconds=None):
        start(setups)
        calls.append(seconds)
        if len(calls) == 1:
            raise error

    monkeypatch.setattr(once, "start", fails_at_first)
    monkeypatch.setattr(shop, "log", lambda since: [])
    said = once.run()
    assert said["failed"].startswith("shop cannot be started: ") and said["back"] is True
    assert shop.setup() == before


def test_a_disk_too_full_for_the_first_link_leaves_what_ran(site, rolled, monkeypatch):
    shop = site()
    shop.switch(shop.wanted_setup())
    before, shop.wanted = shop.setup(), "a2"
    once, started = rolled([shop]), []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(shop.root), "symlink_to", full)
    monkeypatch.setattr(shop, "log", lambda since: [])
    start = once.start
    monkeypatch.setattr(once, "start", lambda *_: start(*_) or started.append(shop.wanted))
    said = once.run()
    assert "No space left" in said["failed"] and said["back"] is True
    assert shop.setup() == before and started == ["a1"]


def test_a_file_is_replaced_whole_or_not_at_all(roll, tmp_path, monkeypatch):
    file = tmp_path / "sites.conf"
    roll.replace(file, b"one")
    written = file.stat()

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file), "write_bytes", full)
    roll.replace(file, b"one")
    with pytest.raises(OSError, match="No space left"):
        roll.replace(file, b"two")
    assert file.read_bytes() == b"one" and file.stat().st_ino == written.st_ino


def test_a_file_that_is_replaced_keeps_its_mode(roll, tmp_path):
    file = tmp_path / "sites.conf"
    roll.replace(file, b"one")
    file.chmod(0o604)
    roll.replace(file, b"two")
    assert file.read_bytes() == b"two" and file.stat().st_mode & 0o777 == 0o604


def test_a_bad_release_goes_back_beside_a_site_that_is_new(site, rolled, roll, monkeypatch):
    shop, blog = site(), site("blog=b1")
    shop.switch(shop.wanted_setup())
    before, shop.wanted = shop.setup(), "a2"
    once = rolled([shop, blog])

    def bad(*_):
        raise roll.Bad(shop, "answers with status 500 to /")

    monkeypatch.setattr(once, "show", bad)
    monkeypatch.setattr(shop, "log", lambda since: [])
    said = once.run()
    assert said["failed"] == "shop answers with status 500 to /" and said["back"] is True
    assert shop.setup() == before and blog.setup() == roll.Site("blog", blog.root.parent).setup() == ("", "")
    assert blog.wanted == "", "what is new runs no more"


def test_what_cannot_be_laid_out_drains_no_host(site, rolled, roll, monkeypatch):
    shop, flags = site(), []
    shop.switch(shop.wanted_setup())
    shop.wanted = "a2"
    once = rolled([shop])
    monkeypatch.setattr(roll.Pool, "change", lambda self, flag, *_: flags.append(flag))

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shop, "wanted_setup", full)
    said = once.run()
    assert "No space left" in said["failed"] and said["back"] is True and flags == []


def test_nothing_is_forgiven_where_nothing_answered_before(site, rolled, gunicorn, monkeypatch):
    """A host whose gunicorn is down knows of no path that was broken before."""
    gunicorn.answers |= {"/": (500, b"broken"), "/health/live": (503, b"no JSON")}
    shop = site()
    shop.switch(shop.wanted_setup())
    once = rolled([shop])
    monkeypatch.setattr(shop, "log", lambda since: [])
    assert once.run()["failed"] == "shop answers with status 500 to /"
    gunicorn.answers["/health/live"] = (200, b'{"release": "a0"}')
    assert "failed" not in rolled([shop]).run(), "it was broken before"


def test_a_host_that_a_load_balancer_does_not_find_ready_goes_back(site, rolled, monkeypatch, roll):
    shop = site()
    shop.switch(shop.wanted_setup())
    before, shop.wanted = shop.setup(), "a2"
    monkeypatch.setattr(shop, "log", lambda since: [])
    said = {False: {shop: "192.0.2.1 has it as down"}, True: {}}
    monkeypatch.setattr(roll.Pool, "change", lambda self, flag, raised, seconds=None: said[raised])
    told = rolled([shop], canary=False).run()
    assert "is ready, but the load balancer 192.0.2.1 has it as down" in told["failed"]
    assert (told["back"], shop.setup()) == (True, before)


def test_what_ran_is_not_drained_again_where_a_load_balancer_does_not_find_it(site, rolled, monkeypatch, roll):
    shop = site()
    shop.switch(shop.wanted_setup())
    flags = []
    said = {False: {shop: "192.0.2.1 has it as down"}, True: {}}
    monkeypatch.setattr(roll.Pool, "change", lambda _, flag, raised, *rest: flags.append(raised) or said[raised])
    told = rolled([shop], canary=False).run()
    assert "has it as down" in told["failed"] and told["back"] and flags == [True, False]


def test_a_host_that_a_load_balancer_keeps_is_not_stopped(site, rolled, monkeypatch, roll):
    shop, flags = site(), []
    said = {True: {shop: "192.0.2.1 has it as up"}, False: {}}
    monkeypatch.setattr(roll.Pool, "change", lambda _, flag, raised, *rest: flags.append(raised) or said[raised])
    once = rolled([shop])
    monkeypatch.setattr(once, "start", lambda *_: pytest.fail("it was stopped"))
    told = once.run()
    assert "shop is drained, but the load balancer 192.0.2.1 has it as up" in told["failed"] and not told["changed"]
    assert flags == [True, False]


@pytest.mark.parametrize("last", [False, True])
def test_the_last_host_that_serves_a_site_is_not_drained(site, rolled, roll, monkeypatch, last):
    shop, changed = site(), []
    monkeypatch.setattr(roll, "OTHERS_SECONDS", 0.5)
    monkeypatch.setattr(roll.Pool, "alone", lambda _: {shop: "192.0.2.1"})
    monkeypatch.setattr(roll.Pool, "has_others", lambda _: False)
    monkeypatch.setattr(roll.Pool, "change", lambda _, flag, *rest: changed.append(flag) or {})
    once = rolled([shop])
    once.last = last
    told = once.run()
    assert (told["changed"], bool(changed)) == (last, last)
    if not last:
        sentence = deploys.told_of_a_bad_release(told, "web1", ["--canary"]).splitlines()[0]
        assert "shop is served by no other web host, says the load balancer 192.0.2.1" in sentence
        assert "roll_last=true" in sentence and "nothing was changed there" in sentence


# The pool


@pytest.fixture
def pool(roll, site, monkeypatch, tmp_path):
    shop = site()
    for name in ("DRAIN", "CANARY"):
        monkeypatch.setattr(roll, name, tmp_path / name)
    roll.DRAIN.mkdir()
    questions = shop.root / "tmp/questions"
    questions.mkdir(parents=True)
    monkeypatch.setattr(roll, "SEEN_SECONDS", 2)

    class Asking(threading.Thread):
        """A load balancer that asks every ``seconds``, and says ``told``."""

        def __init__(self, address: str, seconds: float, told: str = ""):
            super().__init__(daemon=True)
            self.file, self.seconds, self.asked, self.told = questions / address, seconds, [], told
            self.file.write_text(told)
            self.start()

        def run(self):
            while not time.sleep(self.seconds):
                # As trestle_wsgi does: never an empty file between.
                with self.file.open("r+") as file:
                    file.write(self.told.ljust(32))
                os.utime(self.file)
                self.asked.append(time.time())

    return roll.Pool([shop], ["192.0.2.1", "192.0.2.2"]), Asking, questions


def test_a_drain_waits_until_each_load_balancer_has_asked_twice(pool, tmp_path):
    pool, asking, _ = pool
    one, two = asking("192.0.2.1", 0.1), asking("192.0.2.2", 0.3)
    begun = time.time()
    pool.change(tmp_path / "DRAIN/flag", True)
    ended = time.time()
    for balancer in (one, two):
        assert len([moment for moment in balancer.asked if begun < moment < ended]) >= 2
    assert ended - begun < 1


@pytest.mark.parametrize(
    ("flags", "raised", "before", "after"),
    [
        (["DRAIN/deploy"], True, "up 2/2", "drained 2/2"),
        (["DRAIN/deploy"], True, "up 2/2", "down 2/2"),
        (["DRAIN/deploy"], False, "drained 2/2", "up 2/2"),
        (["DRAIN/deploy"], False, "drained 2/2", "outdated 2/2"),
        (["DRAIN/deploy", "CANARY"], False, "drained 2/2", "canary 2/2"),
        (["CANARY"], False, "canary 2/2", "up 2/2"),
    ],
)
def test_a_change_waits_until_a_load_balancer_has_the_host_so(pool, tmp_path, flags, raised, before, after):
    pool, asking, _ = pool
    for flag in flags[raised:]:
        (tmp_path / flag).touch()
    one = asking("192.0.2.1", 0.1, before)
    begun = time.time()
    threading.Timer(0.7, lambda: setattr(one, "told", after)).start()
    assert pool.change(tmp_path / flags[0], raised) == {}
    assert 0.7 < time.time() - begun < 1.5


def test_one_look_at_who_else_serves_is_not_enough(pool, roll, monkeypatch):
    pool, asking, _ = pool
    one = asking("192.0.2.1", 0.05, "up 0/2")
    monkeypatch.setattr(roll, "OTHERS_SECONDS", 2)
    threading.Timer(0.5, lambda: setattr(one, "told", "outdated 0/2")).start()
    threading.Timer(0.75, lambda: setattr(one, "told", "up 0/2")).start()
    assert roll.others_missing(pool)
    one.told = "up 1/2"
    assert roll.others_missing(pool) is None


def test_nobody_waits_where_all_say_that_others_serve(pool, roll):
    pool, asking, _ = pool
    asking("192.0.2.1", 0.1, "up 1/2"), asking("192.0.2.2", 0.1, "up 2/2")
    begun = time.time()
    assert roll.others_missing(pool) is None and time.time() - begun < 0.2


def test_a_flag_of_somebody_else_is_respected_while_one_waits(pool, roll):
    pool, asking, _ = pool
    asking("192.0.2.1", 0.1, "drained 2/2")
    (roll.DRAIN / "deploy").touch()
    threading.Timer(0.5, (roll.DRAIN / "manual").touch).start()
    assert pool.change(roll.DRAIN / "deploy", False) == {}


def test_one_that_could_not_ask_while_the_sites_were_started_is_waited_for(pool, roll):
    pool, asking, questions = pool
    (roll.DRAIN / "deploy").touch()
    (questions / "192.0.2.1").write_text("drained 2/2")
    os.utime(questions / "192.0.2.1", (time.time() - 20, time.time() - 20))
    begun = time.time()
    threading.Timer(0.5, lambda: asking("192.0.2.1", 0.1, "up 2/2")).start()
    assert pool.change(roll.DRAIN / "deploy", False) == {}
    assert 0.5 < time.time() - begun < 1.5


def test_one_that_has_it_otherwise_is_named(pool, tmp_path):
    pool, asking, _ = pool
    asking("192.0.2.1", 0.1, "up 2/2"), asking("192.0.2.2", 0.1, "down 2/2")
    (tmp_path / "DRAIN/deploy").touch()
    assert list(pool.change(tmp_path / "DRAIN/deploy", False).values()) == ["192.0.2.2 has it as down"]


def test_another_flag_keeps_it_drained_and_that_is_not_waited_for(pool, tmp_path):
    pool, asking, _ = pool
    asking("192.0.2.1", 0.1, "drained 2/2")
    for name in ("manual", "deploy"):
        (tmp_path / "DRAIN" / name).touch()
    begun = time.time()
    assert pool.change(tmp_path / "DRAIN/deploy", False) == {}
    assert time.time() - begun < 1


@pytest.mark.parametrize(
    ("told", "alone"),
    [
        (["up 0/2", "up 2/2"], True),
        (["canary 0/1"], True),
        (["up 1/2", "up 2/2"], False),
        (["up 0/0"], False),  # there is one web host
        (["drained 0/2"], False),  # it serves nobody itself
        (["down 0/2"], True),  # nginx asks it all the same, where nobody is up
        (["", ""], False),
    ],
)
def test_the_load_balancers_say_whether_a_host_serves_alone(pool, gunicorn, told, alone):
    pool, asking, _ = pool
    gunicorn.answers["/health/live"] = counted(0, 0)
    for number, said in enumerate(told, 1):
        asking(f"192.0.2.{number}", 0.1, said)
    assert list(pool.alone().values()) == ["192.0.2.1"] * alone


def test_a_load_balancer_that_is_down_is_not_waited_for(pool, tmp_path):
    pool, asking, questions = pool
    asking("192.0.2.1", 0.1)
    (questions / "192.0.2.2").touch()
    os.utime(questions / "192.0.2.2", (0, 0))
    begun = time.time()
    pool.change(tmp_path / "DRAIN/flag", True)
    assert time.time() - begun < 1


def test_one_that_dies_meanwhile_holds_nothing_up_for_ever(pool, roll, tmp_path, monkeypatch):
    pool, _, questions = pool
    monkeypatch.setattr(roll, "ASKING_SECONDS", 1.5)
    (questions / "192.0.2.1").touch()
    begun = time.time()
    pool.change(tmp_path / "DRAIN/flag", True)
    assert 1.4 < time.time() - begun < 2


def test_one_that_dies_while_a_host_comes_back_is_waited_for_as_long_as_it_may_be_silent(pool, roll, monkeypatch):
    pool, _, questions = pool
    monkeypatch.setattr(roll, "ASKING_SECONDS", 0.5)
    (questions / "192.0.2.1").write_text("drained 2/2")
    (roll.DRAIN / "deploy").touch()
    begun = time.time()
    assert pool.change(roll.DRAIN / "deploy", False) == {}
    assert time.time() - begun < 1


def test_where_nobody_was_noted_it_takes_the_time_that_a_question_may_take(pool, roll, gunicorn, tmp_path, monkeypatch):
    gunicorn.answers["/health/live"] = counted(0, 0)
    monkeypatch.setattr(roll, "ASKING_SECONDS", 1)
    begun = time.time()
    pool[0].change(tmp_path / "DRAIN/flag", True)
    assert 1 <= time.time() - begun < 2


def test_a_flag_that_is_as_it_should_be_is_nothing_to_wait_for(pool, tmp_path):
    pool, _, questions = pool
    (questions / "192.0.2.1").touch()
    begun = time.time()
    pool.change(tmp_path / "DRAIN/flag", False)
    assert time.time() - begun < 0.5


# What the playbook makes of it


NEW = ["shop: does not answer", deploys.NEW]


@pytest.mark.parametrize(
    ("reasons", "hosts"),
    [
        ({"web1": ["x: y"], "web2": ["x: y"]}, ["web1"]),
        ({"web1": [], "web2": ["x: y"]}, []),  # web1 has it already, and stood the watch
        ({"web1": [], "web2": []}, []),
        ({}, []),
        ({"web1": ["x: y"], "web2": NEW, "web3": ["x: y"]}, ["web2", "web1"]),
        ({"web1": ["x: y", deploys.UNSEEN], "web2": ["x: y"]}, ["web2"]),  # nobody would try it on web1
        ({"web1": ["x: y", deploys.UNSEEN], "web2": ["x: y", deploys.UNSEEN]}, ["web1"]),
        ({"web1": NEW, "web2": NEW}, []),  # there are no visitors yet
        ({"web1": ["skipped, since there is none"], "web2": ["x: y"], "web3": ["x: y"]}, ["web2"]),  # a blank one
        ({"web1": ["no reason"], "web2": ["x: y"]}, []),
    ],
)
def test_the_canaries_are_the_hosts_up_to_the_first_that_serves_where_none_has_the_release(reasons, hosts):
    statuses = {name: {"stdout": "\n".join(lines), "stdout_lines": lines} for name, lines in reasons.items()}
    assert deploys.canaries(statuses) == hosts


@pytest.mark.parametrize(
    ("said", "order"),
    [
        ({}, ["web1", "web2", "web3"]),
        ({"web2": ["shop: does not answer"]}, ["web2", "web1", "web3"]),
        ({"web1": ["x: y"], "web3": NEW}, ["web3", "web1", "web2"]),
        ({"web1": ["x: y"], "web2": [], "web3": ["pgpool: z", deploys.DRAINED]}, ["web3", "web1", "web2"]),
        ({"web1": [*NEW, deploys.UNSEEN], "web3": ["shop: does not answer"]}, ["web3", "web2", "web1"]),
        ({"web3": ["skipped, since there is none"]}, ["web1", "web2", "web3"]),
    ],
)
def test_hosts_that_serve_nobody_are_rolled_first_and_those_without_visitors_last(said, order):
    hostvars = {host: {} for host in ("web1", "web2", "web3")}
    for host, lines in said.items():
        hostvars[host] = {"__gunicorn_status": {"stdout_lines": lines}}
    assert deploys.web_roll_order(list(hostvars), hostvars) == order


def test_a_canary_is_none_of_those_that_may_be_rolled_together_and_who_could_not_be_asked_is_none():
    lines = ["shop: runs release a, wanted is b"]
    differs = {"stdout": lines[0], "stdout_lines": lines}
    statuses = {"web0": {"unreachable": True}, "web1": {"failed": True, "stdout": "", "stdout_lines": []}}
    statuses |= {"web2": differs, "web3": differs, "web4": differs}
    hostvars = {host: {"__gunicorn_status": status} for host, status in statuses.items()} | {"web5": {}}
    assert deploys.web_canaries(list(hostvars), hostvars) == ["web2"]
    assert deploys.web_roll_order(list(hostvars), hostvars) == ["web0", "web1", "web3", "web4", "web5"]
    assert deploys.web_canaries(list(hostvars), {}) == []


def test_both_sides_say_the_same_of_a_host(roll):
    names = ("NEW", "DRAINED", "UNSEEN", "NOT_CRAWLED")
    assert [getattr(deploys, name) for name in names] == [getattr(roll, name) for name in names]


def test_from_a_roll_until_a_crawl_has_gone_well_the_status_says_so_and_it_is_no_reason_to_roll(
    site, rolled, roll, monkeypatch, tmp_path, capsys
):
    assert rolled([site()]).run()["changed"] is True
    settings = tmp_path / "settings"
    settings.write_text(json.dumps({"sites": {}, "load_balancers": [], "web_hosts": 2}))
    monkeypatch.setattr(sys, "argv", ["site-roll", "status", "--settings", str(settings)])
    assert roll.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [deploys.NOT_CRAWLED] and deploys.reasons({"stdout_lines": lines}) == []
    roll.UNCRAWLED.unlink()
    assert roll.main() == 0 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rolled_now", "says", "is_crawled"),
    [
        ({"skipped": True}, [], True),
        ({"skipped": True}, ["x: y"], True),  # in check mode
        ({"skipped": True}, [deploys.NOT_CRAWLED], False),
        ({"rc": 0, "changed": True}, [], False),
        (None, None, True),
    ],
)
def test_a_crawl_follows_each_roll_though_the_run_that_rolled_did_not_come_to_it(rolled_now, says, is_crawled):
    told = {"__gunicorn_rolled": rolled_now, "__gunicorn_status": {"stdout_lines": says}}
    hostvars = {"web1": {name: value for name, value in told.items() if rolled_now}, "web2": {}, "down": {}}
    assert deploys.is_crawled(["web1", "web2"], hostvars) is is_crawled


@pytest.mark.parametrize(
    ("flags", "told", "unseen"),
    [
        ([], "up 1/1", False),
        (["deploy"], "drained 1/1", False),
        (["manual"], "drained 1/1", True),
        (["deploy", "patch"], "drained 1/1", True),
        ([], "outdated 1/1", True),
    ],
)
def test_a_host_that_stays_out_of_the_pool_says_so(pool, roll, monkeypatch, flags, told, unseen):
    hosts, _, questions = pool
    monkeypatch.setattr(roll, "Supervisor", Supervisor)
    (questions / "192.0.2.1").write_text(told)
    for flag in flags:
        (roll.DRAIN / flag).touch()
    once = roll.Roll(hosts.sites, {}, hosts, False)
    assert (roll.UNSEEN in once.reasons()) is unseen
    monkeypatch.setattr(hosts.sites[0], "reason", lambda _: "")
    assert once.reasons() == [] or "deploy" in flags, "alone it is no reason to roll"


def test_what_runs_is_looked_at_when_an_earlier_roll_has_ended(roll, monkeypatch, tmp_path):
    monkeypatch.setattr(roll, "LOCK", tmp_path / "lock")
    made = []

    class Once:
        def run(self):
            return {"changed": False}

    def make():
        made.append(time.monotonic())
        return Once()

    with (tmp_path / "lock").open("w") as lock:
        roll.fcntl.flock(lock, roll.fcntl.LOCK_EX)
        waiting = threading.Thread(target=roll.roll, args=(make,))
        monkeypatch.setattr(roll.signal, "signal", lambda *_: None)
        waiting.start()
        time.sleep(0.5)
        assert not made
    waiting.join(5)
    assert len(made) == 1


def test_what_serves_nobody_yet_says_so(site, roll, monkeypatch):
    assert deploys.NEW == roll.NEW
    settings = {"load_balancers": [], "sites": {"shop": SETTINGS}}
    monkeypatch.setattr(roll, "Supervisor", Supervisor)
    shop = site()
    once = roll.Roll([shop], settings, roll.Pool([shop], []), False)
    assert once.reasons()[-1] == roll.NEW
    shop.switch(shop.wanted_setup())
    assert roll.NEW not in once.reasons()


def test_a_bad_release_is_told_in_a_sentence_with_the_lines_that_tell_why():
    result = {"changed": True, "failed": "shop does not start", "back": True, "log": ["ImportError: no"]}
    assert deploys.told_of_a_bad_release(result, "web1", ["web1", "web2"]).splitlines() == [
        "web1: shop does not start: it went back to what ran before. No other host was touched.",
        "The last of its logs:",
        "ImportError: no",
    ]
    assert deploys.told_of_a_bad_release({"changed": True}, "web1", ["web1"]) == ""
    assert "stays drained" in deploys.told_of_a_bad_release(result | {"back": False}, "web1", [])
    assert "No other host" not in deploys.told_of_a_bad_release(result, "web2", [])
    assert "No other host" not in deploys.told_of_a_bad_release(result, "web2", ["web1", "web2"])
