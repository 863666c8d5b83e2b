"""What the operations on the database tier make of what its members say: who leads, who could, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml
from environments import ROOT

from plugins.filter.cluster import (
    MB,
    db_candidates,
    db_leader,
    db_primary_address,
    db_primary_first,
    db_problems,
    db_waiting,
    roll_order,
    roll_problems,
    roll_work,
    switchover_problem,
)

LAG_MB = 16


def primary(location: int = 1000 * MB, **more) -> dict:
    return {"state": "running", "role": "primary", "xlog": {"location": location}} | more


def standby(behind: int = 0, replication_state: str = "streaming", **more) -> dict:
    where = {"received_location": 1000 * MB, "replayed_location": 1000 * MB - behind}
    return {"state": "running", "role": "replica", "replication_state": replication_state, "xlog": where} | more


def asked(**answers: dict | None) -> list[dict]:
    """As Ansible registers a loop of uri: without an answer there is no json."""
    return [{"item": {"name": n}} | ({"json": a} if a else {"status": -1}) for n, a in answers.items()]


WHOLE = asked(db1=primary(), db2=standby(), db3=standby())
ALONE = asked(db1=primary())


def test_who_leads():
    assert db_leader(WHOLE) == "db1"
    assert db_leader(asked(db1=standby(), db2=None, db3=standby())) == ""
    assert db_leader(asked(db1=primary(), db2=primary())) == "", "two that say so are none"
    assert db_leader(asked(db1={"state": "starting", "role": "primary"}, db2=standby())) == ""


@pytest.mark.parametrize(
    ("answers", "problems"),
    [
        (WHOLE, []),
        (ALONE, []),
        (asked(db1=primary(), db2=standby(LAG_MB * MB), db3=standby()), []),
        (
            asked(db1=primary(), db2=standby(53 * MB), db3=standby()),
            ["db2 is 53 MB behind the primary: wait until it has caught up."],
        ),
        (
            asked(db1=primary(), db2=standby(), db3=standby(replication_state="in archive recovery")),
            ["db3 is running as replica, and does not stream: mend it first."],
        ),
        (
            asked(db1=primary(), db2=None, db3={"state": "creating replica", "role": "uninitialized"}),
            [
                "db2 does not answer: mend it first.",
                "db3 is creating replica as uninitialized, and does not stream: mend it first.",
            ],
        ),
        (
            asked(db1=None, db2=standby(), db3=standby()),
            ["Not one of the database hosts leads (db1: no answer): see patronictl list."],
        ),
    ],
)
def test_what_is_amiss_is_told_in_a_sentence_for_each(answers, problems):
    assert db_problems(answers, LAG_MB) == problems


def test_the_host_itself_need_not_be_in_health():
    assert db_problems(asked(db1=primary(), db2=None, db3=standby()), LAG_MB, ["db2"]) == []


def test_the_nearest_standby_is_the_first_candidate_and_one_that_lags_is_none():
    assert db_candidates(WHOLE, LAG_MB) == ["db2", "db3"]
    assert db_candidates(asked(db1=primary(), db2=standby(2 * MB), db3=standby(MB)), LAG_MB) == ["db3", "db2"]
    assert db_candidates(asked(db1=primary(), db2=standby(53 * MB), db3=standby()), LAG_MB) == ["db3"]
    assert db_candidates(WHOLE, LAG_MB, "db3") == ["db3"]
    assert db_candidates(WHOLE, LAG_MB, "db1") == []
    assert db_candidates(asked(db1=None, db2=standby()), LAG_MB) == []


@pytest.mark.parametrize(
    ("answers", "candidate", "problem"),
    [
        (WHOLE, "", ""),
        (WHOLE, "db2", ""),
        (WHOLE, "db1", ""),  # it leads already
        (WHOLE, "db9", "candidate=db9 is no database host: db1, db2 and db3 are."),
        (ALONE, "", "db1 is the only database host: there is nobody to switch to."),
        (asked(db1=primary(), db2=None, db3=standby()), "", ""),
        (asked(db1=primary(), db2=None, db3=standby()), "db2", "db2 does not answer: mend it first."),
        (
            asked(db1=primary(), db2=None, db3=standby(53 * MB)),
            "",
            "db2 does not answer: mend it first. db3 is 53 MB behind the primary: wait until it has caught up.",
        ),
        (
            asked(db1=standby(), db2=standby(), db3=standby()),
            "db2",
            "Not one of the database hosts leads: see patronictl list.",
        ),
    ],
)
def test_a_switchover_is_refused_where_nobody_can_take_over(answers, candidate, problem):
    assert switchover_problem(answers, LAG_MB, candidate) == problem


def waits(**settings: tuple[str, str]) -> dict:
    reasons = {name: {"old_value": old, "new_value": new} for name, (old, new) in settings.items()}
    return {"pending_restart": True, "pending_restart_reason": reasons}


def test_what_waits_for_a_restart():
    answers = asked(
        db1=primary(**waits(max_connections=("100", "200"), shared_buffers=("64MB", "32MB"))),
        db2=standby(pending_restart=True),
        db3=standby(),
        db4=None,
    )
    waiting = {name: db_waiting(answers, name) for name in ("db1", "db2", "db3", "db4")}
    assert waiting == {"db1": ["max_connections", "shared_buffers"], "db2": ["a setting"], "db3": [], "db4": []}


def test_a_value_that_goes_down_and_that_standbys_must_not_have_less_of_reaches_the_primary_first():
    def first(**settings) -> bool:
        return db_primary_first(asked(db1=primary(**waits(**settings))), "db1")

    assert first(max_connections=("200", "100"), shared_buffers=("32MB", "64MB"))
    assert not first(max_connections=("100", "200"))
    assert not first(shared_buffers=("64MB", "32MB"))
    assert not db_primary_first(WHOLE, "db1")


def test_where_the_leader_of_a_cluster_listens():
    members = [{"role": "quorum_standby", "host": "192.0.2.1"}, {"role": "leader", "host": "192.0.2.2"}]
    assert db_primary_address({"members": members}) == "192.0.2.2"
    assert db_primary_address({"members": members[:1]}) == ""


def said(upgrade=(), flagged=False) -> str:
    return json.dumps({"upgrade": [*upgrade], "restart": [], "reboot": [], "flagged": flagged, "kept": []})


def test_a_member_has_something_to_do_for_a_setting_or_a_package():
    answers = asked(db1=primary(**waits(shared_buffers=("64MB", "32MB"))), db2=standby(), db3=standby())
    assert roll_work(answers, "db1", {}) == ["to restart, since it waits for shared_buffers"]
    assert roll_work(answers, "db2", {}) == []
    assert roll_work(answers, "db2", {"db2": said(["postgresql-17"])}) == ["to upgrade: postgresql-17"]


def test_members_are_rolled_standbys_first_and_of_them_first_what_an_earlier_run_left():
    assert roll_order(WHOLE, {}) == []
    everything = dict.fromkeys(("db1", "db2", "db3"), said(["postgresql-17"]))
    assert roll_order(WHOLE, everything) == ["db2", "db3", "db1"]
    assert roll_order(WHOLE, everything | {"db3": said(flagged=True)}) == ["db3", "db2", "db1"]
    assert roll_order(WHOLE, dict.fromkeys(everything, said())) == []


def test_a_member_that_lags_keeps_the_tier_from_being_rolled_but_not_one_that_an_earlier_run_left():
    answers = asked(db1=primary(), db2=standby(53 * MB), db3=standby())
    assert len(roll_problems(answers, LAG_MB, {})) == 1
    assert len(roll_problems(answers, LAG_MB, {"db2": said(), "db3": said(flagged=True)})) == 1
    assert roll_problems(answers, LAG_MB, {"db2": said(flagged=True)}) == []


def includes(node):
    """(role, tasks file) of every task that includes a role, and of every round of its loop."""
    if isinstance(node, list):
        for entry in node:
            yield from includes(entry)
    elif isinstance(node, dict):
        for key in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
            if key in node:
                yield from ((item, node[key]["tasks_from"]) for item in node.get("loop", [node[key]["name"]]))
        for value in node.values():
            yield from includes(value)


@pytest.mark.parametrize("book", ["roll_postgres", "switchover"])
def test_every_step_of_a_playbook_is_there(book):
    """Roles that a loop names are looked for by nobody before a run gets there."""
    found = set(includes(yaml.safe_load((ROOT / f"playbooks/{book}.yml").read_text())))
    assert len(found) > 2
    assert not [step for step in found if not (ROOT / "roles" / step[0] / f"tasks/{step[1]}.yml").is_file()]


def test_the_roll_goes_on_member_by_member_and_stops_at_the_first_that_fails():
    plays = yaml.safe_load((ROOT / "playbooks/roll_postgres.yml").read_text())
    assert [play["name"].split()[0] for play in plays] == [f"({n}/5)" for n in range(1, 6)]
    assert plays[2]["serial"] == 1
    assert all(play["max_fail_percentage"] == 0 for play in plays[1:])
    assert plays[2]["tasks"][-1] == plays[4]["tasks"][-1], "standbys and the old primary are rolled alike"
