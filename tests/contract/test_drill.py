"""The drill's load, ledger, judgement and picture: what goes wrong must be seen, so it is made to go wrong here."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest
import yaml

from lab import containers
from tests.drills import deploy, ledger, picture, report, rounds, runs, versions
from tests.drills.load import Load, Target, content_of
from tests.drills.versions import ROOT

FAST = {"page": 60, "static": 20, "write": 10, "upload": 10}
PAGE = b'<html><link href="/static/a.css"><body>A page.</body></html>'


class Site(ThreadingHTTPServer):
    """A site that fails where a test says so: ``faults`` maps the number of a request to what becomes of it."""

    daemon_threads = True

    def __init__(self, faults=None, seconds: float = 0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.seconds, self.count, self.lock = faults or {}, seconds, 0, threading.Lock()
        self.stories: Counter[str] = Counter()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, PAGE + self.path.encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headline = re.search(rb'name="headline"\r\n\r\n([\w-]+)', body)[1].decode()
        self.answer(302, b"", headline)

    def answer(self, status: int, body: bytes, headline: str = "") -> None:
        with self.server.lock:
            self.server.count += 1
            fault = self.server.faults.get((self.command, self.server.count)) or self.server.faults.get(self.command)
        time.sleep(self.server.seconds)
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "error":
            status = 500
        if headline and fault not in ("lost", "error"):
            self.server.stories[headline] += 2 if fault == "twice" else 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Served-By", f"web{self.server.count % 3 + 1}")
        if headline:
            self.send_header("Location", f"/stories/{headline}/")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site(request):
    made = Site(*getattr(request, "param", ()))
    yield made
    made.shutdown()
    made.server_close()


def visit(site: Site, tmp_path, rate=200, seconds=1.5, mix=None) -> tuple[Load, list[dict]]:
    port = site.server_address[1]
    target = Target("127.0.0.1", "localhost", None, ["/"], ["/p.png"], {}, "token", port)
    load = Load(
        target, rate, ledger.Ledger(tmp_path / "l.jsonl.gz"), "test", seconds, mix or {"page": 80, "static": 20}
    )
    load.start()
    load.join(30)
    assert load.problem is None
    return load, list(ledger.read(tmp_path / "l.jsonl.gz"))


def test_every_request_is_in_the_ledger_and_the_load_stops_by_itself(site, tmp_path):
    load, records = visit(site, tmp_path, mix=FAST)
    assert not load.is_alive()
    assert 250 <= len(records) == load.total == load.tally.requests == site.count <= 301
    assert (load.failed, load.first_failures, load.tally.open) == (0, 0, 0)
    assert {record["host"] for record in records} == {"web1", "web2", "web3"}
    assert {record["kind"] for record in records} == set(FAST)
    assert load.client.opened < len(records) / 3, "connections are kept"
    assert {record["path"] for record in records if record["kind"] == "static"} <= {"/", "/static/a.css"}


@pytest.mark.parametrize("site", [({("GET", 50): "cut", ("GET", 100): "error"},)], indirect=True)
def test_a_get_is_tried_once_more_on_a_new_connection_and_that_is_counted_apart(site, tmp_path):
    load, records = visit(site, tmp_path)
    assert (load.failed, load.first_failures) == (0, 2)
    firsts = sorted(record["first"] for record in records if "first" in record)
    assert firsts[1] == "status 500" and firsts[0].startswith("IncompleteReadError")


@pytest.mark.parametrize("site", [({"GET": "error"},)], indirect=True)
def test_a_get_that_fails_twice_has_failed(site, tmp_path):
    load, records = visit(site, tmp_path, rate=50, seconds=0.5)
    assert load.failed == load.total == len(records) > 0
    assert site.count == 2 * load.total, "it is tried once more, and no more"
    assert load.tally.summary()["failed"] == load.total
    assert {record["error"] for record in records} == {"status 500"}


@pytest.mark.parametrize("site", [({"POST": "cut"},), ({"POST": "error"},)], indirect=True)
def test_a_post_is_never_sent_twice(site, tmp_path):
    load, records = visit(site, tmp_path, rate=50, seconds=0.5, mix={"write": 1})
    assert load.failed == load.total == site.count == len(records) > 0
    assert load.first_failures == 0


@pytest.mark.parametrize("site", [({}, 0.6)], indirect=True)
def test_times_count_from_when_a_request_was_due_and_no_answer_holds_up_the_next(site, tmp_path):
    _, records = visit(site, tmp_path, rate=40, seconds=1)
    assert len(records) == pytest.approx(40, abs=3), "an open loop"
    assert all(0.6 <= record["ended"] - record["due"] < 2 for record in records)


def test_a_load_that_comes_too_late_says_so():
    tally = ledger.Tally()
    for late in (0.0, 0.3, 2.0):
        tally.begin()
        tally.add({"kind": "page", "due": 10.0, "started": 10.0 + late, "ended": 10.1 + late})
    said = tally.summary()
    assert (said["late"], said["latest"], said["slowest"]["page"]) == (2, 2.0, 2.1)


def drill(tmp_path, stored=None, lab_id="here"):
    """A drill without a lab: ``stored`` is what its database holds."""
    made = object.__new__(deploy.Drill)
    made.folder, made.file, made.lab_id, made.domain = tmp_path, tmp_path / "state.json", lab_id, "x"
    made.state, made.load, made.say, made.session = {"steps": [], "rounds": []}, None, print, lambda: None

    class Hosts:
        forgotten = False

        def stored(self, name):
            return stored, {token: token for token in stored}

        def forget(self, name):
            self.forgotten = True

    made.hosts = Hosts()
    made.fetch = lambda session, token: content_of("upload", token)
    return made


OPEN = {"name": "test", "ledger": "l.jsonl.gz", "lab": "here", "rate": 40}


@pytest.mark.parametrize(
    ("faults", "wrong"), [({}, None), ({("POST", 7): "lost"}, "lost"), ({("POST", 7): "twice"}, "twice")]
)
def test_a_write_that_is_lost_or_there_twice_is_found(tmp_path, faults, wrong):
    site = Site(faults)
    _, records = visit(site, tmp_path, rate=50, seconds=1, mix={"write": 1, "upload": 1})
    made = drill(tmp_path, site.stories)
    closed = made.close(OPEN)
    site.shutdown()
    assert closed["writes"] == len(records) and closed["uploads"] > 0 and not closed["uploads_wrong"]
    assert {name for name in ("lost", "twice") if closed[name]} == ({wrong} if wrong else set())
    assert made.hosts.forgotten


def test_an_upload_that_comes_back_different_is_found(tmp_path, site):
    visit(site, tmp_path, rate=50, seconds=0.5, mix={"upload": 1})
    made = drill(tmp_path, site.stories)
    made.fetch = lambda session, token: b"something else"
    assert len(made.close(OPEN)["uploads_wrong"]) == made.close(OPEN)["uploads"] > 0


def test_a_round_that_was_cut_short_is_closed_later(tmp_path, site):
    _, records = visit(site, tmp_path, rate=50, seconds=2.5, mix={"write": 1})
    path = tmp_path / "l.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    made = drill(tmp_path, site.stories)
    made.state["open"] = dict(OPEN)
    closed = made.end()
    assert 0 < closed["requests"] < len(records), "the last second is lost, and no more"
    assert closed["compared"] and not closed["lost"]
    assert json.loads(made.file.read_text())["rounds"] == made.state["rounds"] and "open" not in made.state


def test_of_a_lab_that_is_gone_the_totals_stay_and_nothing_is_compared(tmp_path, site):
    visit(site, tmp_path, rate=50, seconds=0.5, mix={"write": 1})
    closed = drill(tmp_path, Counter(), lab_id="another").close(OPEN)
    assert closed["requests"] == closed["writes"] > 0
    assert not closed["compared"] and "lost" not in closed


def test_a_ledger_may_be_cut_off_anywhere(tmp_path):
    book = ledger.Ledger(tmp_path / "x.gz")
    for number in range(3):
        book.add({"n": number})
        book.flush()
    whole = book.path.read_bytes()
    for length in range(len(whole)):
        book.path.write_bytes(whole[:length])
        found = [record["n"] for record in ledger.read(book.path)]
        assert found == list(range(len(found)))
    assert len(gzip.decompress(whole).splitlines()) == 3


def events(host: str, begun: float, *steps: str) -> list[dict]:
    return [{"host": host, "at": begun + number, "what": what} for number, what in enumerate(steps)]


GOOD = ("rolls, since x", "begun", "drained", "stopped", "started", "ready", "restored")
WENT_BACK = (*GOOD[:-1], "canary", "back: newsroom answers 3 of 9 requests", "stopped", "ready", "restored")
HOSTS = ("web1", "web2", "web3")


def hosts(**releases: str) -> dict[str, dict]:
    run = {name: releases.get(name, "old") for name in HOSTS}
    return {name: {"release": release, "digest": "d", "pid": f"of {release}"} for name, release in run.items()}


def judge(tmp_path, kind, name, code, before, after, told, said="web1 is bad."):
    run = runs.Run(0, 40, code, f"fatal: [web1]: FAILED! =>\n    msg: '{said}'\n")
    step = deploy.Step(kind, name, "v1", ())
    return drill(tmp_path).judge(step, run, before, after, told)


def test_a_good_deploy_is_judged(tmp_path):
    new = hosts(web1="new", web2="new", web3="new")
    told = [event for n, host in enumerate(HOSTS) for event in events(host, 10 * n, *GOOD)]
    assert judge(tmp_path, "deploy", "v1", 0, hosts(), new, told)["problems"] == []
    assert judge(tmp_path, "deploy", "v1", 2, hosts(), new, told)["problems"] == ["the run ended with 2: web1 is bad."]
    assert judge(tmp_path, "deploy", "v1", 0, hosts(), hosts(web1="new"), told)["problems"] == [
        "the hosts do not run one release",
        "a host still runs the release before",
    ]


def test_a_bad_release_is_judged(tmp_path):
    told, said = events("web1", 0, *WENT_BACK), "web1: newsroom answers 3 of 9 requests with an error."

    def bad(code=2, after=None, told=told, said=said):
        return judge(tmp_path, "bad", "ready, then 500s", code, hosts(), after or hosts(), told, said)

    done = bad()
    assert (done["problems"], done["touched"], done["back"], done["sentence"]) == ([], ["web1"], 3, said)
    assert bad(code=0)["problems"] == ["the run succeeded"]
    assert bad(said="the disk is full.")["problems"] == ["it was stopped for another reason: the disk is full."]
    assert bad(after=hosts(web1="new"))["problems"] == ["a host runs another release than before"]
    spread = told + events("web2", 20, "begun", "drained")
    assert bad(told=spread)["problems"] == ["touched web1, web2"]
    assert bad(told=told[:-1])["problems"] == ["back only after inf s"]
    assert bad(told=[])["problems"] == ["not back"]


@pytest.mark.parametrize(("told", "problems"), [(events("web1", 0, *WENT_BACK), ["touched web1"]), ([], [])])
def test_a_release_that_cannot_be_built_touches_nobody(tmp_path, told, problems):
    said = "ERROR: No matching distribution found for x==1.0"
    assert judge(tmp_path, "bad", "missing wheel", 2, hosts(), hosts(), told, said)["problems"] == problems


def test_a_restart_that_no_journal_tells_of_is_seen(tmp_path):
    restarted = hosts()
    restarted["web2"]["pid"] = "2"
    done = judge(tmp_path, "bad", "broken settings", 2, hosts(), restarted, [], "newsroom.settings does not import")
    assert done["problems"] == ["touched web2"]


CANARY_SAYS = """
[ERROR]: Task failed: Action failed: web1: newsroom answers 3 of 9 requests with an error
fatal: [web1]: FAILED! =>
    changed: false
    msg: |-
        web1: newsroom answers 3 of 9 requests with an error: it went back. No other host was touched.
        The last of its logs:
        a line: with a colon

        another

NO MORE HOSTS LEFT *****
"""
BUILD_SAYS = """
fatal: [web1 -> build]: FAILED! =>
    changed: true
    msg: non-zero return code
    stderr: |-
        ERROR: many words
        build-artifact: no package has that name.
    stderr_lines: <omitted>

PLAY RECAP ****
"""


def test_of_what_a_failed_run_says_the_sentence_is_kept():
    wanted = "web1: newsroom answers 3 of 9 requests with an error: it went back."
    assert runs.sentence(CANARY_SAYS) == f"{wanted} No other host was touched."
    assert runs.sentence(BUILD_SAYS) == "build-artifact: no package has that name."
    assert runs.sentence("[ERROR]: The lock is held.\nmore\n") == "The lock is held."
    assert runs.sentence("nothing of that kind") == ""


def test_the_seconds_of_a_run_are_shared_out():
    run = runs.Run(0, 60, 0, "", [(2, "Check the inventory"), (5, "Build it"), (15, "Prepare"), (25, "Roll them")])
    told = [event for n, host in enumerate(HOSTS) for event in events(host, 26 + 10 * n, *GOOD)]
    found = runs.shares(run, told)
    assert sum(found.values()) == pytest.approx(60)
    assert (found["starting Ansible"], found["building"], found["restarting"], found["draining"]) == (2, 10, 6, 3)
    assert found["Ansible between the hosts"] == 35 - 15


def test_every_play_of_a_deploy_has_its_share():
    books = [ROOT / "playbooks" / name for name in ("deploy.yml", "rollback.yml")]
    while books:
        book = books.pop()
        for play in yaml.safe_load(book.read_text()):
            if imported := play.get("ansible.builtin.import_playbook"):
                books.append(book.parent / imported)
            else:
                assert any(re.search(pattern, play["name"]) for _, pattern in runs.PARTS), play["name"]
    assert {part for part, _ in runs.PARTS} - {"rolling"} <= set(report.SHARES)


def test_every_version_is_a_commit_of_its_own_and_no_other(tmp_path):
    made = versions.Versions(tmp_path / "site")
    tags = ["begin", made.good(1), made.good(2), *map(made.bad, versions.BAD)]
    assert len({made.git("rev-parse", f"{tag}^{{tree}}") for tag in tags}) == len(tags) == 11
    assert made.git("rev-parse", made.good(1)) == made.git("rev-parse", "v1"), "made once"
    for tag in tags:
        made.git("checkout", "--quiet", tag)
        for path in made.folder.rglob("*.py"):
            compile(path.read_text(), path, "exec")
    sites = made.sites("production")
    assert sites["newsroom"]["source"] == {"git": str(tmp_path / "site"), "version": "begin"}
    assert len(sites) > 1, "the other sites stay"


def test_a_drill_that_begins_anew_has_versions_that_nobody_has_built(tmp_path):
    drills = [versions.Versions(tmp_path / name) for name in ("one", "two")]
    assert len({made.git("rev-parse", f"{made.good(1)}^{{tree}}") for made in drills}) == 2


def test_a_round_has_all_that_is_to_be_drilled(tmp_path):
    steps = list(deploy.round_of(0, versions.Versions(tmp_path / "site"), "production", tmp_path))
    assert Counter(step.kind for step in steps) == {"deploy": 10, "rollback": 2, "patch": 1, "bad": 8}
    later = list(deploy.round_of(1, versions.Versions(tmp_path / "site"), "production", tmp_path))
    assert not {s.version for s in steps if s.kind == "deploy"} & {s.version for s in later if s.kind == "deploy"}


def records(began: float, seconds: int) -> list[dict]:
    found = []
    for number in range(seconds * 10):
        times = dict.fromkeys(("due", "started", "ended"), began + number / 10)
        found.append({"kind": "page", "host": HOSTS[number % 3]} | times)
    found[50]["error"] = "status 500"
    return found


def test_the_picture_shows_hosts_failures_and_drains():
    told = [event for n, host in enumerate(HOSTS) for event in events(host, 1010 + 10 * n, *GOOD)]
    drawn = picture.draw("A <deploy>", "600 requests", records(1000, 60), told, 1000, 1060, HOSTS)
    root = ET.fromstring(drawn)
    classes = Counter(part.get("class") for part in root.iter())
    assert classes["failed"] == 2, "one, and one in the legend"
    assert classes["drained"] == 3 + 1 and classes["stopped"] == 3 + 1
    assert classes["mark"] == 6
    assert "prefers-color-scheme:dark" in drawn


def test_the_report_tells_what_was_done_and_leaves_other_sections_alone(tmp_path):
    told = [event for n, host in enumerate(HOSTS) for event in events(host, 1010 + 10 * n, *GOOD)]
    book = ledger.Ledger(tmp_path / "l.jsonl.gz")
    for record in records(1000, 60):
        book.add(record)
    book.flush()
    step = {
        "kind": "deploy", "name": "deploy v1", "built": False, "seconds": 50.0, "began": 1000, "ended": 1050,
        "touched": list(HOSTS), "events": told, "back": None, "sentence": "", "problems": ["1 requests failed"],
        "requests": 600, "failed": 1, "first_failures": 2, "asked_again": 3, "slowest": {"page": 0.4, "slow": 5.1},
        "shares": {"building": 10.0}, "ledger": "l.jsonl.gz",
    }  # fmt: skip
    done = OPEN | {"requests": 600, "failed": 1, "writes": 9, "compared": True, "lost": []}
    state = {"steps": [step], "rounds": [done]}
    docs = tmp_path / "docs"
    docs.mkdir()
    report.write(state, tmp_path, docs, list(HOSTS))
    page = docs / "drills.md"
    page.write_text(page.read_text() + "\n## Another drill\n")
    report.write(state, tmp_path, docs, list(HOSTS))
    said = page.read_text()
    assert said.count("### Figures") == said.count("## Another drill") == 1
    assert "**1 of 600 requests failed**" in said and "1 requests failed" in said
    assert "| deploy v1 | 50 | 600 | 1 | 2 | 3 | 0.4 | web1 web2 web3 |" in said
    assert (docs / "drill-deploy.svg").exists() and "![" in said


def interrupted(*_):
    raise KeyboardInterrupt


def in_trouble(*_):
    raise containers.LabError("it is gone")


def refused_by_the_engine(*_):
    raise docker.errors.APIError("500 Server Error")


@pytest.fixture
def drilled(monkeypatch, tmp_path):
    """drilled(run, ...): the status of a drill and what it did, with the state of the one before."""
    log = []

    class Lab:
        def __init__(self, env_name):
            self.env_name = env_name

        def containers(self):
            return {"web1": "a host that an earlier drill may have left paused"}

        def put_back(self, container):
            log.append("put back")

        def down(self, say):
            log.append("remove")

    class Drill(rounds.Rounds):
        def __init__(self, end, good, lab_id):
            self.load, self.say, self.end_load, self.is_good = end, lambda text: None, end, good
            self.file, self.lab_id = tmp_path / "state.json", lab_id
            self.state = json.loads(self.file.read_text()) if self.file.exists() else {}

        def end(self):
            log.append("end")
            self.end_load()

        def report(self):
            log.append("report")

        def leave(self):
            log.append("leave")

        def good(self):
            return self.is_good

    def conduct(run, end=None, good=True, found=True, lab_id="ours"):
        log.clear()
        monkeypatch.setattr(rounds, "is_up", lambda lab: found)
        return rounds.conduct(lambda lab: Drill(end, good, lab_id), run), log[:]

    monkeypatch.setattr(rounds.containers, "Lab", Lab)
    monkeypatch.setattr(rounds.engine, "ensure", lambda say: None)
    monkeypatch.setattr(rounds.demo, "demo", lambda lab, tiers: log.append("make"))
    monkeypatch.setattr(rounds.signal, "signal", lambda *_: None)
    return conduct


@pytest.mark.parametrize(
    ("run", "end", "good", "code", "told"),
    [
        (lambda drill: None, None, True, 0, ["put back", "report", "leave"]),
        (lambda drill: None, None, False, 1, ["put back", "report", "leave"]),
        (interrupted, lambda: None, True, 1, ["put back", "end", "report"]),
        (in_trouble, lambda: None, True, 1, ["put back", "end", "report"]),
        (in_trouble, in_trouble, True, 1, ["put back", "end", "report"]),
        (refused_by_the_engine, refused_by_the_engine, True, 1, ["put back", "end", "report"]),
    ],
)
def test_a_drill_ends_with_its_report_whatever_becomes_of_it(drilled, run, end, good, code, told):
    """Where it is stopped its load is ended; where it is done the lab that it found is left as it was."""
    assert drilled(run, end, good) == (code, told)


def test_a_drill_that_goes_on_removes_the_lab_that_it_made_before(drilled):
    """Not one that somebody else has made since."""
    assert drilled(interrupted, lambda: None, found=False) == (1, ["put back", "make", "end", "report"])
    assert drilled(lambda drill: None) == (0, ["put back", "report", "remove"])
    assert drilled(lambda drill: None, lab_id="another") == (0, ["put back", "report", "leave"])


def test_a_drill_removes_the_lab_that_it_has_made(drilled):
    assert drilled(lambda drill: None, found=False) == (0, ["put back", "make", "report", "remove"])
