"""Which release a site is to have: versions, pins, rollbacks and the table of releases."""

from __future__ import annotations

import json

import history
import pytest
from ansible.errors import AnsibleFilterError

NEWS = {"name": "news", "app_type": "django", "source": {"path": "examples/newsroom"}}
GAZETTE = NEWS | {"name": "gazette"}
SHOP = {"name": "shop", "app_type": "wsgi", "source": {"git": "https://git.example.com/shop.git", "version": "v1"}}
PIN = history.source_digest(NEWS)


def line(release: str, time: int, kind: str = "deploy", pin: str = "", version: str = "") -> dict:
    return {"id": release, "version": version, "kind": kind, "by": "ada@desk", "pin": pin, "time": time}


def host(*lines: dict, there: str = "", current: str = "", switched: float = 0, **more) -> dict:
    """What site-releases list says on a host. ``there``: letters, of which each is a finished release."""
    releases = {
        name: {"version": f"v-{name}", "installed": 1, "configurations": [f"c{name}"], "static": [f"s{name}"]}
        for name in there or {one["id"]: 0 for one in lines}
    }
    current = current or (lines[-1]["id"] if lines else "")
    switched = switched or (lines[-1]["time"] if lines else 0)
    news = {"current": current, "switched": switched, "releases": releases, "history": list(lines)}
    artifacts = [file for name in releases for file in (f"key-{name}.tar", f"{name}-c{name}.tar.gz")]
    return {"sites": {"news": news}, "artifacts": artifacts, "drained": [], "canary": False} | more


class Lazy(dict):
    """As Ansible hands mappings to filters."""

    def items(self):
        yield from super().items()


def back(told: dict, wanted: str = "", sites=(NEWS,), named: str = "") -> str:
    return history.rollback(told, list(sites), named, wanted)[0]["id"]


# Versions.


def test_a_version_is_that_of_the_site_that_is_named_or_of_all_with_one_source():
    assert history.versions_wanted([NEWS, GAZETTE], "", "") == {}
    assert history.versions_wanted([NEWS, GAZETTE], "v2", "") == {"news": "v2", "gazette": "v2"}
    assert history.versions_wanted([NEWS, GAZETTE, SHOP], "v2", "shop") == {"shop": "v2"}
    assert history.versions_wanted([NEWS, GAZETTE, SHOP], "v2", "news, shop") == {"news": "v2", "shop": "v2"}


def test_a_folder_that_no_git_knows_has_no_version(tmp_path):
    plain = NEWS | {"name": "plain", "source": {"path": str(tmp_path)}}
    assert history.versions_wanted([plain, SHOP], "v2", "") == {"shop": "v2"}
    assert history.versions_wanted([plain], "v2", "") == {"plain": "v2"}, "that there is none is said when it is packed"


def test_what_could_mean_several_sites_is_refused():
    with pytest.raises(AnsibleFilterError, match=r"^This could mean news or shop: say which with -e site=news\.$"):
        history.versions_wanted([NEWS, SHOP], "v2", "")
    with pytest.raises(AnsibleFilterError, match=r"^There is no site nwes: say -e site=news\.$"):
        history.versions_wanted([NEWS, SHOP], "v2", "nwes")


# Pins.


def pinned(told: dict, versions=(), kept: bool = True, named: str = "", site=NEWS) -> list[str]:
    return [pin["id"] for pin in history.pins(told, [site], dict.fromkeys(versions, "v"), kept, named).values()]


def test_a_chosen_release_stays_until_something_else_is_asked_for():
    told = {"web1": host(line("a", 1), line("b", 2), line("a", 3, "rollback", PIN)), "web2": host(line("b", 2))}
    assert pinned(told) == ["a"], "whatever a host says that missed it"
    assert pinned(told, versions=["news"]) == []
    assert pinned(told, kept=False) == pinned(told, kept=False, named="news") == []
    assert pinned(told, kept=False, named="gazette") == ["a"]
    assert pinned({}) == []


def test_a_pin_ends_when_the_source_changes_and_not_with_a_deploy_key():
    told = {"web1": host(line("a", 3, "rollback", PIN))}
    assert pinned(told, site=NEWS | {"source": NEWS["source"] | {"deploy_key": "new"}}) == ["a"]
    assert pinned(told, site=NEWS | {"source": {"path": "examples/other"}}) == []


def test_a_pin_ends_with_what_came_after_it():
    assert pinned({"web1": host(line("a", 3, "rollback", PIN)), "web2": host(line("b", 4))}) == []


def test_that_a_site_stays_is_said_in_one_line():
    told = {"web1": host(line("a", 1795219200, "rollback", PIN, "v1"))}
    assert history.pins_told(history.pins(told, [NEWS], {}, True, "")) == [
        "news stays on a (v1): ada@desk went back to it at 2026-11-21 00:00 UTC; "
        "playbooks/deploy.yml deploys what the inventory names."
    ]


def test_what_is_recorded_says_whether_it_stays():
    releases = [{"site": "news", "id": "a", "version": "v1", "chosen": chosen} for chosen in (True, False)]
    first, second = history.to_record(releases, [NEWS], "deploy", "ada", 5.5)
    assert (first["pin"], first["time"], second["pin"]) == (PIN, 5, "")


# Rollbacks.


def test_a_rollback_goes_to_the_release_before():
    assert back({"web1": host(line("a", 1), line("b", 2))}) == "a"
    assert back({"web1": host(line("a", 1), line("b", 2), line("a", 3, "rollback"))}) == "b"
    blank = host(line("b", 3))
    assert back({"web1": blank, "web2": host(line("a", 1), line("b", 2))}) == "a", "another host remembers"


def test_after_a_roll_that_did_not_end_it_goes_to_what_ran_before_it():
    first = host(line("a", 1), line("b", 2), there="abc", current="c", switched=9)
    lines = (line("a", 1), line("b", 2))
    assert back({"web2": host(*lines), "web1": first}) == "b"
    # Also where a later host went back by itself, which was the last thing that happened.
    assert back({"web1": first, "web2": host(*lines, there="abc", switched=10)}) == "b"


def test_a_host_that_was_away_says_nothing_of_what_runs():
    lines = (line("a", 1), line("b", 2))
    assert back({"web1": host(*lines), "web2": host(*lines, there="abx", current="x", switched=1.5)}) == "a"


def test_a_rollback_that_did_not_end_goes_on():
    lines = (line("a", 1), line("b", 2), line("c", 3))
    rolled, left = host(*lines, current="b", switched=9), host(*lines)
    for told in ({"web1": rolled, "web2": left}, {"web1": rolled, "web2": rolled}):
        (chosen,) = history.rollback(told, [NEWS], "", "")
        assert chosen["id"] == "b"
    (chosen,) = history.rollback({"web1": rolled, "web2": left}, [NEWS], "", "")
    assert chosen["from"] == "c"


def test_a_release_that_is_gone_or_never_ran_is_passed_over():
    assert back({"web1": host(line("a", 1), line("b", 2), line("c", 3), there="acx")}) == "a"


def test_a_rollback_by_id_goes_to_any_that_is_there():
    told = {"web1": host(line("a", 1), line("b", 2), there="abx")}
    (chosen,) = history.rollback(told, [NEWS], "", "x")
    assert (chosen["id"], chosen["version"], chosen["configuration"], chosen["from"]) == ("x", "v-x", "cx", "b")
    assert chosen["chosen"], "it stays"


@pytest.mark.parametrize(
    ("told", "wanted", "named", "sentence"),
    [
        ([line("a", 1)], "", "", "news has run no release before a, and there is no other on the hosts."),
        ([line("a", 1)], "z", "", "news has no release z: there is no other on the hosts."),
        ([line("a", 1), line("b", 2)], "z", "news", "news has no release z: on the hosts are a (v-a)."),
        ([], "", "", "news has run no release before any, and there is no other on the hosts."),
        ([line("a", 1)], "", "nwes", "There is no site nwes: say -e site=news."),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused_in_one_sentence(told, wanted, named, sentence):
    assert history.rollback_problem({"web1": host(*told)}, [NEWS], named, wanted) == sentence


def test_of_several_sources_the_site_must_be_said():
    told = {"web1": host(line("a", 1), line("b", 2))}
    assert history.rollback_problem(told, [NEWS, SHOP], "", "") == (
        "This could mean news or shop: say which with -e site=news."
    )
    assert history.rollback_problem(told, [NEWS, SHOP], "news", "") == ""
    assert history.rollback_problem({"web1": host(line("b", 2), there="bx")}, [NEWS], "", "") == (
        "news has run no release before b, and on the hosts are x (v-x): say -e release_id=x."
    )


def test_what_a_host_lacks_comes_from_one_that_has_it():
    whole = host(line("a", 1), line("b", 2))
    (chosen,) = history.rollback({"web1": whole}, [NEWS], "", "")
    static = {"host": "web1", "file": "a-ca.tar.gz"}
    assert history.files_wanted({"web1": whole}, [chosen]) == [static]
    without = host(line("b", 2)) | {"artifacts": []}
    assert history.files_wanted({"web0": without, "web1": whole}, [chosen]) == [
        static,
        {"host": "web1", "file": "key-a.tar"},
    ]
    assert history.files_wanted(Lazy({"web1": whole}), [chosen]) == [static]
    nowhere = {"web0": without, "web1": whole | {"artifacts": []}}
    assert history.rollback_problem(nowhere, [NEWS], "", "") == (
        "web0 lacks the release a, and no host has its artifact."
    )


def test_a_host_gets_what_it_lacks_and_a_blank_one_all():
    release = {"site": "news", "id": "b", "configuration": "cb", "artifact": "/s/key-b.tar", "static": "/s/b-cb.tar.gz"}
    told = {"web1": host(line("a", 1), line("b", 2)), "web2": host(line("a", 1))}
    told["web3"] = told["web1"] | {"artifacts": ["key-b.tar"]}
    needs = {
        name: (history.to_copy([release], told, name), history.to_install([release], told, name))
        for name in ("web1", "web2", "web3", "blank")
    }
    everything = (["/s/key-b.tar", "/s/b-cb.tar.gz"], [release])
    assert needs == {"web1": ([], []), "web2": everything, "web3": (["/s/b-cb.tar.gz"], []), "blank": everything}
    checked_anew = release | {"configuration": "other", "static": "/s/b-other.tar.gz"}
    assert history.to_copy([checked_anew], told, "web1") == ["/s/b-other.tar.gz"]
    assert history.to_install([checked_anew], told, "web1") == [checked_anew]
    assert history.to_copy([release | {"static": ""}], told, "web1") == [], "nobody has its static files"


def test_of_an_artifact_the_host_has_most_where_it_runs_a_release_that_is_known_here_too(tmp_path):
    release = {"site": "news", "id": "c", "configuration": "cc", "artifact": f"{tmp_path}/key-c.tar", "static": ""}
    told = {"web1": host(line("a", 1), line("b", 2)), "web2": host(line("b", 1)), "web3": host()}
    told["web4"] = told["web2"] | {"artifacts": ["key-b.tar", "key-c.tar"]}

    def alike(name: str) -> dict[str, str]:
        return history.alike([release], told, name)

    assert not any(alike(name) for name in (*told, "blank")) and not history.alike_here("news", told, tmp_path)
    (tmp_path / "key-b.tar").touch()
    assert history.alike_here("news", told, tmp_path) == "key-b.tar" and not history.alike_here("blog", told, tmp_path)
    known = {f"{tmp_path}/key-c.tar": f"{tmp_path}/key-b.tar"}
    assert {name for name in (*told, "blank") if alike(name) == known} == {"web1", "web2"}
    assert not any(alike(name) for name in ("web3", "web4", "blank"))


def test_releases_are_compared_where_both_are():
    told = {"web1": host(line("a", 1)), "web2": {"sites": {}}, "web3": host(line("a", 1), line("b", 2))}
    assert history.holder_of_both(told, {"site": "news", "id": "a", "from": "b"}, "web9") == "web3"
    assert history.holder_of_both(told, {"site": "news", "id": "a", "from": "c"}, "web9") == "web9"


def test_what_stays_in_the_database_is_said():
    (chosen,) = history.rollback({"web1": host(line("a", 1), line("b", 2))}, [NEWS], "", "")
    migrations = [{"name": "n.0002_a", "irreversible": []}, {"name": "n.0003_b", "irreversible": ["Remove field x"]}]
    said = {"item": chosen, "rc": 0, "stdout": json.dumps({"migrations": migrations})}
    assert history.rollback_told([chosen], [said]) == [
        "news goes back from b to a (v-a).",
        "news: n.0002_a came in between and stays in the database; it can be undone with playbooks/manage.yml.",
        "news: n.0003_b came in between and stays in the database; it cannot be undone (Remove field x).",
    ]
    assert history.rollback_told([chosen], [said | {"rc": 1}])[1:] == [
        "news: which migrations came in between cannot be told on any host."
    ]


def test_what_the_hosts_told_is_gathered_from_those_that_could_be_asked():
    told = {"stdout": '{"sites": {}}'}
    outside = [{"item": "web3", **told}, {"item": "web4", "unreachable": True}]
    hostvars = {
        "web1": {"__release_here": told, "__release_elsewhere": {"results": outside}},
        "web2": {"__release_here": {"skipped": True, "stdout": "skipped, since it does not exist"}},
        "web3": {},
    }
    assert history.releases_told(["web1", "web2", "web3"], hostvars) == {"web3": {"sites": {}}, "web1": {"sites": {}}}


# The table.


def test_the_table_tells_each_host_s_release_and_what_it_can_go_back_to():
    told = {
        "web1": host(line("a", 1795219200), line("b", 1795219260, version="v2"), drained=["manual"]),
        "web2": host(line("a", 1795219200, pin=PIN, kind="rollback"), canary=True),
        "web4": {"sites": {}, "artifacts": [], "drained": [], "canary": False},
    }
    table = history.releases_table(told, ["news"], ["web1", "web2", "web3", "web4"])
    assert [" ".join(row.split()) for row in table] == [
        "site host release version since by can go back to",
        "news web1 b v2 2026-11-21 00:01 UTC ada@desk a (v-a) drained",
        "news web2 a v-a 2026-11-21 00:00 UTC ada@desk (rollback), stays canary",
        "news web3 does not answer",
        "news web4 none",
    ]
