"""The drill of faults: what is hit, what is forgiven and for how long, and that every host is put back."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_drill import Site

from lab import containers
from tests.drills import faults, faults_report, hosts, judge, ledger, strike, table
from tests.drills.load import Load, Target, content_of

ROOT = Path(__file__).resolve().parents[2]
TIERS = {"lb", "web", "db", "cache", "media", "monitor"}


# The table.


def test_every_tier_has_faults_of_its_hosts_and_its_processes():
    assert len(table.BY_NAME) == len(table.FAULTS)
    assert {fault.tier for fault in table.FAULTS} == TIERS
    assert {fault.tier for fault in table.FAULTS if fault.act == "kill"} == TIERS
    assert {fault.tier for fault in table.FAULTS if fault.act not in table.HOST_ACTS} == TIERS
    assert {fault.act for fault in table.FAULTS} > set(table.HOST_ACTS)
    assert all(fault.name.startswith(f"{fault.tier}-") for fault in table.FAULTS)


def test_the_short_form_has_one_fault_of_every_tier():
    assert sorted(table.BY_NAME[name].tier for name in table.SHORT) == sorted(TIERS)


def test_a_host_is_put_back_and_a_process_comes_back_by_itself():
    assert all((fault.hold > 0) == (fault.act in table.HOST_ACTS) for fault in table.FAULTS)


def test_the_published_seconds_are_those_that_are_judged_by():
    rows = re.findall(r"^\| `([a-z-]+)` \|.*\| (\d+) \|$", (ROOT / "docs/drills.md").read_text(), re.MULTILINE)
    assert {name: float(seconds) for name, seconds in rows} == {f.name: f.window for f in table.FAULTS}


EVERYTHING = {"db-primary", "cache", "media"}


def test_what_else_a_host_carries_is_hit_with_it_and_forgiven_as_long():
    assert table.roles(["db", "cache", "media"], leads=True, holds=False) == EVERYTHING
    assert table.roles(["db", "lb"], leads=False, holds=True) == {"db-standby", "lb-holder"}
    assert table.roles(["web", "lb"], leads=False, holds=False) == {"web", "lb-spare"}
    kill, process = table.BY_NAME["cache-kill"], table.BY_NAME["cache-memcached-kill"]
    assert table.hit(kill, EVERYTHING) == EVERYTHING
    assert table.hit(process, EVERYTHING) == {"cache"}
    assert {f.name for f in table.alike(kill, EVERYTHING)} == {"cache-kill", "db-primary-kill", "media-kill"}
    assert table.alike(process, EVERYTHING) == [process, process]
    assert [f.name for f in table.alike(kill, {"cache"})] == ["cache-kill", "cache-kill"]


def test_a_game_is_dealt_by_its_seed_and_each_hand_has_every_tier():
    first, again, other = (list(islice(table.deal(seed), 120)) for seed in (7, 7, 8))
    assert first == again != other
    for hand in range(0, 120, len(TIERS)):
        assert {fault.tier for fault, _ in first[hand : hand + len(TIERS)]} == TIERS
    assert {fault for fault, _ in first} == set(table.FAULTS), "each comes round"
    assert len({share for _, share in first}) > 20, "hosts are away for longer and for shorter"


def test_an_environment_without_spare_hosts_is_refused():
    spare = {f"{tier}{n}": [tier] for tier in ("lb", "web", "cache", "media") for n in (1, 2)}
    spare |= {f"db{n}": ["db", "monitor"] for n in (1, 2, 3)}
    assert table.too_few(spare) == []
    assert table.too_few({name: tiers for name, tiers in spare.items() if name not in ("db3", "lb1")}) == ["lb", "db"]
    with pytest.raises(containers.LabError, match="no fault db-magic"):
        faults.asked({"FAULT": "db-magic web-kill"})


# The judgement.


def step(name: str = "db-primary-kill", began: float = 100, ended: float | None = 200, **more) -> dict:
    fault = table.BY_NAME[name]
    return {
        "name": name, "host": "db1", "hit": [fault.role], "window": fault.window, "run": 1,
        "ledger": "l.jsonl.gz", "began": began, "back": began + 40, "whole": began + 60, "ended": ended, "lacking": [],
    } | more  # fmt: skip


def request(due: float, ended: float | None = None, **more) -> dict:
    times = {"due": due, "started": due, "ended": due + 0.1 if ended is None else ended}
    return times | {"kind": "page", "method": "GET", "host": "web1"} | more


def write(due: float, ended: float | None = None, **more) -> dict:
    return request(due, ended, **{"kind": "write", "method": "POST", "token": f"t{due:g}"} | more)


def judged(records: list[dict], lost=()) -> dict:
    one = step()
    return one | judge.figures(records, one, judge.windows([one]), set(lost))


@pytest.mark.parametrize(("gap", "problem"), [(20, []), (45, ["45.5 s without a write"])])
def test_writes_go_on_soon_or_that_is_a_problem(gap, problem):
    records = [write(100 + number / 2 + (gap if number > 40 else 0)) for number in range(2 * (100 - gap))]
    assert judge.problems(judged(records)) == problem


@pytest.mark.parametrize(
    ("due", "ended", "outside"),
    [
        (99.0, 99.9, 1),  # before the fault
        (99.0, 100.1, 0),  # it was under way
        (101.0, 101.1, 0),
        (111.0, 147.0, 0),  # it hung until its client gave up
        (112.5, 112.6, 1),
        (190.0, 190.1, 1),
    ],
)
def test_a_write_may_fail_for_the_published_seconds_and_not_after(due, ended, outside):
    found = judged([write(150), write(due, ended, error="status 503")])
    assert (found["writes"], found["writes_failed"], found["outside"]) == (2, 1, outside)
    assert bool(judge.problems(found)) == bool(outside)


def test_the_first_write_that_should_not_have_failed_is_told_of():
    found = judged([write(150), write(112.5, 116.0, error="status 503", host="web2"), write(113, error="status 502")])
    assert judge.problems(found) == [
        "2 writes failed more than 12 s after it: the first was due +12.5 s from it, and ended after 3.5 s: "
        "status 503 web2"
    ]


def test_what_a_site_wrote_of_an_error_is_the_end_of_its_last_traceback():
    said = (
        b"Traceback (most recent call last):\n  File ...\nValueError: earlier\n"
        b"Traceback (most recent call last):\n  File ...\ndjango.db.utils.OperationalError: gone\nWARNING x: y\n"
    )
    asked, commands = object.__new__(hosts.Hosts), []
    asked.site, asked.web = "news", {"web1": None}
    for lines, found in ((said, "django.db.utils.OperationalError: gone"), (b"", "")):
        asked.run = lambda _, *command, lines=lines: commands.append(command) or lines
        assert asked.last_error("web1", 1.5, 2.5) == found
        assert {"--since=@1", "--until=@3"} <= set(commands.pop())


def test_a_get_has_no_such_seconds():
    records = [request(100 + n / 100) for n in range(9995)] + [request(101, error="status 502") for _ in range(5)]
    assert judge.verdict([judged(records)], []) == []
    said = judge.verdict([judged([*records, request(101, error="status 502")])], [])
    assert said == ["99.940% of the GETs were good, where 99.95% are wanted"]


def test_the_seconds_without_a_write_are_those_between_two_that_were_acknowledged():
    before, after = [write(float(due)) for due in range(90, 101)], [write(float(due)) for due in range(120, 200)]
    failed = [write(110.0, error="status 503")]
    assert judged([*before, *failed, *after])["without_writes"] == pytest.approx(20.0, abs=0.2)
    late = [write(110.0, 119.0)]
    assert judged([*before, *late, *after])["without_writes"] == pytest.approx(18.9, abs=0.2)
    assert judged(before)["without_writes"] == pytest.approx(99.9, abs=0.2), "none came again"


def test_a_request_belongs_to_the_fault_that_was_not_over_when_it_was_due():
    steps = [step(began=100, ended=200), step(began=202, ended=300), step(began=302, ended=None)]
    records = [request(due) for due in (95, 199.9, 201, 250, 301, 999)]
    assert [[r["due"] for r in some] for some in judge.share_out(records, steps)] == [
        [95, 199.9],
        [201, 250],
        [301, 999],
    ]


def test_what_is_lost_is_told_with_its_fault_and_with_its_round():
    found = judged([write(101.0), write(102.0)], lost=["t102"])
    assert found["lost"] == 1
    said = " ".join(judge.verdict([found], [{"lost": ["t102"], "twice": ["t7"], "uploads_wrong": ["u"]}]))
    assert "db-primary-kill (db1): 1 acknowledged writes lost" in said
    assert "1 acknowledged writes lost: t102" in said and "1 writes there twice: t7" in said
    assert "1 uploads come back different" in said


def test_a_host_that_does_not_hold_what_was_acknowledged_is_told():
    sent = {"a.png": "1", "b.png": "2"}
    held = {"media1": dict(sent), "media2": {"a.png": "1"}, "media3": {"a.png": "1", "b.png": "another"}}
    wrong = ledger.missing_files(sent, held)
    assert wrong == {"media2": ["b.png"], "media3": ["b.png"]}
    assert judge.verdict([], [{"files_wrong": wrong}])[0] == "media2 does not hold 1 acknowledged files: b.png"


def test_an_environment_that_is_not_whole_again_is_told():
    assert judge.problems(step(lacking=["db1 is paused"])) == ["not whole again: db1 is paused"]


# The drill.


class Container:
    def __init__(self, log: list[str]):
        self.log, self.status = log, "running"

    def reload(self):
        pass

    def pause(self):
        self.log.append("pause")

    def exec_run(self, command):
        self.log.append(command[-1])
        return SimpleNamespace(exit_code=int("fails" in command[-1]), output=b"it says why")


@pytest.fixture
def drill(tmp_path, monkeypatch):
    """A drill without a lab, whose one host is everything, and whose time does not pass."""
    made = object.__new__(faults.Drill)
    made.log, made.say = [], lambda text: None
    container = Container(made.log)
    made.lab = SimpleNamespace(
        containers=lambda: {"all1": container},
        power_off=lambda container: made.log.append("kill"),
        freeze=lambda container: container.pause(),
        cut_off=lambda container: made.log.append("cut off"),
        put_back=lambda container: made.log.append("put back"),
        env_name="production",
        folder=tmp_path,
    )

    def play(env_name, log, playbook, fast):
        made.log.append(playbook)
        return SimpleNamespace(code=0)

    monkeypatch.setattr(strike, "play", play)
    made.folder, made.file, made.state = tmp_path, tmp_path / "state.json", {"steps": [], "rounds": []}
    made.load = SimpleNamespace(next_tally=ledger.Tally)
    made.what_hosts_are = lambda: {"all1": {fault.role for fault in table.FAULTS}}
    made.begin = lambda mix: made.state.update(open={"ledger": "l.jsonl.gz"})
    made.end = lambda: made.state["rounds"].append(made.state.pop("open"))
    monkeypatch.setattr(faults.redundancy, "missing", lambda lab: [])
    monkeypatch.setattr(faults.time, "sleep", lambda seconds: None)
    return made


ASKED = {"faults": ["lb-holder-kill", "web-pause"], "rounds": 2, "minutes": 0, "seed": 0}


def taken(drill) -> list[str]:
    return [one["name"] for one in drill.state["steps"]]


def test_every_fault_is_done_and_its_host_is_put_back(drill):
    drill.run(faults.asked({}))
    assert taken(drill) == [fault.name for fault in table.FAULTS]
    done = Counter(drill.log)
    assert done["put back"] == len(table.FAULTS) + 1, "and once before the first"
    for act, count in Counter(fault.act for fault in table.FAULTS).items():
        what = {"partition": "cut off", "loss": f"nft '{strike.LOSE}'"}.get(act, act)
        assert done[what] == count, act
    assert done[f"nft '{strike.LOSE_NOTHING}'"] == done["put back"]
    assert "ask" not in drill.state and json.loads(drill.file.read_text()) == drill.state


@pytest.mark.parametrize("stops", [KeyboardInterrupt, containers.LabError])
def test_a_drill_that_is_stopped_puts_its_host_back_and_goes_on_from_there(drill, monkeypatch, stops):
    def stop(lab, container, act):
        if len(taken(drill)) == 3:
            raise stops

    monkeypatch.setattr(faults, "strike", stop)
    with pytest.raises(stops):
        drill.run(ASKED)
    assert drill.log[-2:] == ["put back", f"nft '{strike.LOSE_NOTHING}'"]
    assert drill.state["steps"][2]["ended"] is None
    monkeypatch.setattr(faults, "strike", lambda *_: None)
    drill.run(ASKED)
    assert taken(drill) == ["lb-holder-kill", "web-pause", "lb-holder-kill", "lb-holder-kill", "web-pause"]
    assert {one["run"] for one in drill.state["steps"]} == {1}
    drill.run(ASKED)
    assert len(taken(drill)) == 9 and drill.state["steps"][-1]["run"] == 2, "what is done begins anew"


def test_a_game_goes_on_with_its_seed_and_ends_with_its_minutes(drill, monkeypatch):
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(faults.time, "time", lambda: next(clock))
    game = faults.asked({"GAME": "30"})

    def stop(lab, container, act):
        if len(taken(drill)) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "strike", stop)
    with pytest.raises(KeyboardInterrupt):
        drill.run(game)
    seed = drill.state["ask"]["what"]["seed"]
    monkeypatch.setattr(faults, "strike", lambda *_: None)
    drill.run(game)
    whole = [one for one in drill.state["steps"] if one["ended"]]
    assert [one["name"] for one in whole] == [fault.name for fault, _ in islice(table.deal(seed), len(whole))]
    lasted = [one["ended"] - one["began"] for one in whole]
    assert sum(lasted[:-1]) < 30 * 60 <= sum(lasted)
    assert drill.state["games"] == [1] and "ask" not in drill.state


def test_a_drill_that_takes_longer_than_a_load_has_several(drill, monkeypatch):
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(faults.time, "time", lambda: next(clock))
    began = []
    drill.begin = lambda mix: (began.append(next(clock)), drill.state.update(open={"ledger": "l.jsonl.gz"}))
    drill.run(faults.asked({"ROUNDS": "6"}))
    ends = [*began[1:], next(clock)]
    assert len(began) == len(drill.state["rounds"]) > 2
    assert all(ended - start < faults.ROUND_SECONDS for start, ended in zip(began, ends, strict=True))


def test_a_fault_during_which_nobody_asked_for_anything_shows_nothing():
    assert judge.problems(judged([])) == ["nobody asked for anything meanwhile"]


def test_what_does_not_become_whole_stops_the_drill_and_is_told(drill, monkeypatch):
    monkeypatch.setattr(faults, "WHOLE_SECONDS", 0)
    answers = iter([[], []])  # before the first fault
    monkeypatch.setattr(faults.redundancy, "missing", lambda lab: next(answers, ["db1 sees no leader"]))
    with pytest.raises(containers.LabError, match="db1 sees no leader"):
        drill.run(ASKED)
    assert judge.problems(drill.state["steps"][0]) == ["not whole again: db1 sees no leader"]


def test_a_command_that_cannot_be_run_says_why():
    with pytest.raises(containers.LabError, match="it says why"):
        strike.strike(None, Container([]), "this fails")


def test_a_playbook_that_fails_stops_the_drill(drill, monkeypatch):
    monkeypatch.setattr(strike, "play", lambda *_, **__: SimpleNamespace(code=2))
    with pytest.raises(containers.LabError, match=r"playbooks/switchover\.yml failed: see .*strike\.log"):
        drill.run(faults.asked({"FAULT": "db-switchover"}))


@pytest.mark.parametrize("rules", [strike.LOSE, strike.LOSE_NOTHING])
def test_the_rules_that_lose_packets_are_rules(rules):
    done = subprocess.run(["unshare", "--net", "nft", "--check", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Hosts:
    """What is stored, and held by two media hosts of which one may lack the last file."""

    def __init__(self, site, lacks: int):
        self.stories, self.lacks, self.web = site.stories, lacks, {"web1", "web2", "web3"}

    def last_error(self, host, since, until):
        return f"OSError: {host} had no room"

    def stored(self, name):
        return self.stories, {token: f"{token}.png" for token in self.stories}

    def held(self, name):
        digests = {f"{t}.png": hashlib.sha256(content_of("write", t)).hexdigest() for t in self.stories}
        return {"media1": digests, "media2": dict(list(digests.items())[self.lacks :])}

    def forget(self, name):
        pass


@pytest.mark.parametrize(("window", "lacks"), [(60, 0), (0.2, 1)])
def test_a_fault_under_load_from_its_first_request_to_the_verdict(tmp_path, monkeypatch, window, lacks):
    """A site that answers no write for half a second: forgiven for so long as was published."""
    site = Site()
    made = object.__new__(faults.Drill)
    made.folder, made.file, made.lab_id, made.say = tmp_path, tmp_path / "state.json", "here", lambda text: None
    made.state = {"steps": [], "rounds": [], "run": 1, "open": {"name": "t", "ledger": "l.jsonl.gz", "lab": "here"}}
    made.lab, made.hosts, made.session = SimpleNamespace(containers=lambda: {"lb1": None}), Hosts(site, lacks), str
    made.what_hosts_are, made.mend = lambda: {"lb1": {"lb-holder"}}, lambda: None
    monkeypatch.setattr(faults.redundancy, "missing", lambda lab: [])
    monkeypatch.setattr(faults, "strike", lambda *_: site.faults.update(POST="error"))
    monkeypatch.setattr(faults, "put_back", lambda *_: site.faults.clear())
    monkeypatch.setattr(faults, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(faults, "LOOK_SECONDS", 0.1)
    target = Target("127.0.0.1", "localhost", None, ["/"], ["/p.png"], {}, "token", site.server_address[1])
    book = ledger.Ledger(tmp_path / "l.jsonl.gz")
    made.load = Load(target, 100, book, "t", 60, {"page": 60, "write": 40})
    made.load.start()
    one = made.take(table.Fault("lb-test", "lb-holder", "a command", window, 0.5))
    closed = made.end()
    monkeypatch.undo()
    site.shutdown()
    assert closed["requests"] >= one["requests"] > 50
    assert closed["writes"] == closed["files"] == site.stories.total() and closed["lost"] == []
    assert one["writes_failed"] > 0 == one["gets_failed"]
    assert 0.4 < one["without_writes"] < 2 and 0 < one["whole"] - one["back"] < 2
    assert bool(one["outside"]) == bool(made.verdict()) == bool(lacks)
    assert len(made.verdict()) == 2 * lacks, "the writes, and the file"
    assert all("OSError: web" in said for said in made.verdict()[:1])


# The report.


@pytest.fixture
def kept(tmp_path) -> dict:
    """The state after one fault, and after a game of one; another command was cut short."""
    steps = [step(), step("cache-kill", 201, 290, hit=["cache", "db-standby"], run=2, ledger="g.jsonl.gz")]
    rounds = []
    for one in steps:
        book = ledger.Ledger(tmp_path / one["ledger"])
        for number in range(500):
            due = one["began"] - 5 + number / 5
            failed = {"error": "status 503"} if number == 50 else {}
            book.add(write(due, **failed) if number % 5 == 0 else request(due, host=f"web{number % 3 + 1}"))
        book.flush()
        (records,) = judge.share_out(ledger.read(book.path), [one])
        one |= judge.figures(records, one, judge.windows([one]), set())
        one["problems"] = judge.problems(one)
        wrong = {"media2": ["a.png"]} if one["run"] == 2 else {}
        rounds.append({
            "ledger": one["ledger"], "rate": 40, "requests": 500, "writes": 100, "compared": True, "lost": [],
            "files": 100, "files_wrong": wrong, "seed": 7, "run": one["run"],
        })  # fmt: skip
    unfinished = step("web-kill", 300, None, ledger="open.jsonl.gz")
    return {"steps": [*steps, unfinished], "rounds": rounds, "games": [2]}


def sections(folder) -> tuple[str, str]:
    """Of the page: one fault after another, and the game."""
    said = (folder / "drills.md").read_text()
    marked = [re.findall(f"{begin}(.*?){end}", said, re.DOTALL) for begin, end in
              (faults_report.MARKERS, faults_report.GAME_MARKERS)]  # fmt: skip
    assert [len(found) for found in marked] == [1, 1] and said.count("Before.") == said.count("After.") == 1
    return marked[0][0], marked[1][0]


def names_in(picture) -> list[str]:
    return [part.text for part in ET.parse(picture).getroot().iter() if part.get("class") == "name"]


def test_the_report_has_a_section_of_faults_and_one_of_the_game_each_with_a_picture(tmp_path, kept):
    (tmp_path / "drills.md").write_text("# Drills\n\nBefore.\n\nAfter.\n")
    for _ in range(2):
        faults_report.write(kept, tmp_path, tmp_path)
    one_after_another, game = sections(tmp_path)
    assert "| db-primary-kill | 1 |" in one_after_another and "| cache-kill (and db-standby) | 1 |" in game
    assert "cache-kill" not in one_after_another and "db-primary-kill" not in game
    assert "`SEED=7`" in game and "SEED" not in one_after_another
    wrong = [re.search(r"(\d) were missing or different", part)[1] for part in (one_after_another, game)]
    assert wrong == ["0", "1"]
    assert "web-kill" not in one_after_another + game
    drawn = ET.parse(tmp_path / "drill-faults.svg").getroot()
    classes = Counter(part.get("class") for part in drawn.iter())
    assert classes["mark"] == 1
    assert names_in(tmp_path / "drill-faults.svg") == ["db-primary-kill"]
    assert names_in(tmp_path / "drill-game.svg") == ["cache-kill"]
    assert classes["track"] == len(TIERS) and classes["stopped"] >= 1 and classes["failed"] >= 1


@pytest.mark.parametrize(("run", "played"), [(1, False), (2, True)])
def test_a_command_leaves_the_other_s_section_as_it_was(tmp_path, kept, run, played):
    (tmp_path / "drills.md").write_text("# Drills\n\nBefore.\n\nAfter.\n")
    faults_report.write(kept, tmp_path, tmp_path)
    before = sections(tmp_path)
    of_run = {part: [one | {"rate": 20} for one in kept[part] if one["run"] == run] for part in ("steps", "rounds")}
    faults_report.write(of_run | {"games": [2] * played}, tmp_path, tmp_path)
    after = sections(tmp_path)
    assert "asked for 20" in after[played] and "asked for 40" in before[played]
    assert after[not played] == before[not played]
