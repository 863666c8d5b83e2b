"""A web host, the leader of the databases and a media host replaced by blank ones at once: one run restores all.

Meanwhile a load balancer, the monitor and a cache host are down: the run goes on without them and says so.
"""

from __future__ import annotations

import json
import re

import pytest
import test_edge
from conftest import TIERS, hosts_of
from runs import DOWN_STATUS, changes, recap, wait
from test_database import leader, members

from lab.redundancy import missing

SECONDS, WHOLE_SECONDS = 60, 240


@pytest.fixture(autouse=True)
def restored(replacement) -> None:
    assert replacement.code == DOWN_STATUS, replacement.output[-4000:]


def test_one_run_restores_them_and_changes_no_other_host(replacement):
    hosts = recap(replacement.output)
    assert {name for name, counts in hosts.items() if counts["unreachable"]} == set(replacement.down)
    assert not [name for name, counts in hosts.items() if counts["failed"]]
    # What a web host sends to a media host is written "[web1 -> media2]".
    others = tuple(f"changed: [{name}]" for name in TIERS if name not in replacement.hosts)
    assert not [change for change in changes(replacement.output) if change.startswith(others)]


def test_a_server_without_python_is_given_it_before_it_is_asked_for_anything(replacement):
    given = [change for change in changes(replacement.output) if "Give a bare server Python" in change]
    assert len(given) == 1 and given[0].startswith(f"changed: [{replacement.hosts[-1]}]"), given


def test_it_says_at_the_end_which_hosts_were_down_and_what_to_do(replacement):
    end = " ".join(replacement.output.splitlines()[-10:])
    assert all(name in end for name in replacement.down) and "Run the same command again" in end, end


def test_the_sites_are_served_meanwhile(replacement):
    visitor = replacement.visitor
    assert visitor.served > 20
    assert len(visitor.failures) <= visitor.served / 100, visitor.failures


def test_all_is_whole_when_the_others_are_back(lab, replacement):
    assert wait(WHOLE_SECONDS, lambda: not missing(lab), 2), missing(lab)


def test_every_etcd_member_is_healthy(host):
    answer = host(hosts_of("db")[0]).run("etcdctl endpoint health --cluster -w json")
    health = json.loads(answer.stdout)
    assert len(health) == len(hosts_of("db")) and all(member["health"] for member in health), answer.stdout
    listed = json.loads(host(hosts_of("db")[0]).check_output("etcdctl member list -w json"))["members"]
    assert {member["name"] for member in listed} == set(hosts_of("db"))
    assert not [member for member in listed if member.get("isLearner")]


def test_every_database_host_has_the_data(host):
    first = leader(host)

    def stream() -> bool:
        return all(state["State"] == "streaming" for name, state in members(host).items() if name != first)

    assert wait(SECONDS, stream), members(host)
    assert set(members(host)) == set(hosts_of("db"))


def test_every_web_host_is_in_the_pools(host):
    assert wait(SECONDS, lambda: test_edge.in_state(host, "up", *hosts_of("web"))), test_edge.pool(
        host, hosts_of("lb")[0]
    )


def test_a_blank_media_host_has_every_upload_itself(host, lab, replacement, sites):
    """Asked by a peer it answers from its own disk alone."""
    first, *_, blank = hosts_of("media")
    path = f"/srv/media/{sites[0]['name']}/uploads"
    names = host(first).check_output(f"cd {path} && find . -type f").split("\n")
    assert names != [""], "the tests before this one uploaded something"

    def missing() -> list[str]:
        return sorted(set(names) - set(host(blank).check_output(f"cd {path} && find . -type f").split("\n")))

    log = host(blank).run("journalctl -n 20 -u media-sync")
    assert wait(SECONDS, lambda: not missing()), f"{missing()}\n{log.stdout}"


def test_every_media_host_has_the_static_files_itself(host, front, lab, sites):
    for site in sites:
        page = front.session().get(f"https://{site['domains'][0]}/", timeout=10).text
        sheet = re.search(r'href="/static/([^"]+\.css)"', page)[1]
        for name in hosts_of("media"):
            url = f"http://{lab.address(lab.containers()[name])}:8081/{site['name']}/static/{sheet}"
            # As its peers ask it: it does not ask them in turn.
            said = host(hosts_of("lb")[0]).run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'X-Media-Peer: x' {url}")
            assert said.stdout == "200", f"{name} does not have {url} ({said.stdout})"
