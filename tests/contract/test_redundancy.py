"""What a lab lacks to be whole is told for every way in which it may not be."""

from __future__ import annotations

import json

import pytest

from lab.redundancy import View, holders, lacking

ADDRESS = "192.0.2.250"
MEMBERS = [
    {"name": "db1", "role": "leader", "state": "running"},
    {"name": "db2", "role": "quorum_standby", "state": "streaming"},
    {"name": "db3", "role": "quorum_standby", "state": "streaming"},
]
NEW = {"name": "db3", "role": "replica", "state": "streaming"}


def pool(state: str = "up", checked: bool = True) -> str:
    return json.dumps({"site": {host: {"state": state, "checked": checked} for host in ("web1", "web2")}})


def cluster(**states: str) -> str:
    return json.dumps(
        {"members": [member | {"state": states.get(member["name"], member["state"])} for member in MEMBERS]}
    )


def files(*written: int) -> str:
    return "\n".join([*(f"{1000 - age}.5 /srv/media/x/uploads/{age} s.png" for age in written), "1000.5"])


def whole() -> dict[str, View]:
    """Nothing is amiss; what was written within the last seconds need not be everywhere."""
    views = {
        name: View(["db", "monitor"], [], {"cluster": cluster(), "etcd": '{"health":"true"}'})
        for name in ("db1", "db2", "db3")
    }
    views |= {name: View(["web"], [], {"pgpool": "OK: primary db1, 2 standbys"}) for name in ("web1", "web2")}
    views |= {name: View(["lb"], [], {"pool": pool(), "addresses": ""}) for name in ("lb1", "lb2")}
    views["lb2"].answers["addresses"] = f"2: eth0    inet {ADDRESS}/32 scope global eth0"
    views["media1"] = View(["media"], [], {"files": files(600, 60, 1)})
    views["media2"] = View(["media"], [], {"files": files(600, 60)})
    return views


def test_of_a_lab_that_is_whole_nothing_is_missing():
    assert lacking(whole(), ADDRESS) == []
    assert holders(whole(), ADDRESS) == ["lb2"]
    assert {view.leader() for view in whole().values()} == {"db1", None}


@pytest.mark.parametrize(
    ("host", "question", "answer", "said"),
    [
        ("lb1", "pool", pool("down"), "lb1: site on web1 is down"),
        ("lb1", "pool", pool(checked=False), "lb1: site on web1 is not checked"),
        ("lb2", "pool", "", "lb2 does not tell its pool"),
        ("lb2", "addresses", "", "the floating address is on no host"),
        ("lb1", "addresses", f"inet {ADDRESS}/32", "the floating address is on lb1 and lb2"),
        ("web2", "pgpool", "WARNING: primary db1, 1 standbys", "web2: pgpool: WARNING: primary db1, 1 standbys"),
        ("web2", "pgpool", "", "web2: pgpool: no answer"),
        ("db3", "etcd", "", "db3: etcd is not healthy"),
        ("db3", "cluster", "", "db3 does not see db1 in the cluster"),
        ("db1", "cluster", cluster(db2="starting"), "db1 sees db2 starting (quorum_standby)"),
        ("db1", "cluster", cluster(db1="stopped"), "db1 sees db1 stopped (leader)"),
        ("db2", "cluster", json.dumps({"members": MEMBERS[1:]}), "db2 sees no leader"),
        ("db2", "cluster", json.dumps({"members": [*MEMBERS[:2], NEW]}), "db2 sees that db3 has no vote"),
        ("media2", "files", files(600), "media2 lacks 1 of 2 uploads"),
        ("media1", "files", "", "media1 lacks 2 of 2 uploads"),
        ("media1", "files", "error:\nno such process", "media1 lacks 2 of 2 uploads"),
    ],
)
def test_whatever_is_missing_is_told(host, question, answer, said):
    views = whole()
    views[host].answers[question] = answer
    assert said in lacking(views, ADDRESS)


def test_a_host_that_is_away_is_told_first():
    views = whole()
    views["db1"] = View(["db", "monitor"], ["is paused"])
    assert lacking(views, ADDRESS)[0] == "db1 is paused"


def test_an_environment_with_one_load_balancer_has_no_address_to_look_for():
    views = {name: view for name, view in whole().items() if name != "lb2"}
    assert lacking(views, "") == []
