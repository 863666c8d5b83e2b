"""Hosts that are down: a run goes on without them and says so, the sites are served, they come back by themselves.

`make test` has hosts that are down in the run that restores blank ones (test_hosts_blank.py); one of each tier at once
is for `make test-all`.
"""

from __future__ import annotations

import pytest
import test_edge
from conftest import ENV, FAILOVER_SECONDS, TIERS, hosts_of, is_spare, long
from runs import DOWN_STATUS, Visitor, ansible_playbook, changes, recap, steady, wait
from test_database import leader
from test_web import health

from lab.redundancy import missing

# monitor1 is the only one of its tier, and no visitor needs it.
SPARE = ("lb", "web", "cache", "media")
BACK_SECONDS = 240

pytestmark = pytest.mark.skipif(
    not all(map(is_spare, (*SPARE, "db"))), reason="this environment cannot spare a host of each tier"
)


@pytest.fixture(scope="module")
def down(host, lab, front, url):
    """One host of each tier is gone: the leader of the databases, and a media host that accepts and never answers."""
    names = [leader(host), *(hosts_of(tier)[-1] for tier in SPARE), hosts_of("monitor")[-1]]
    found, hung = lab.containers(), hosts_of("media")[-1]
    for name in names:
        lab.freeze(found[name]) if name == hung else found[name].kill()
    try:
        assert wait(FAILOVER_SECONDS, lambda: steady(front, url)), f"{url} is not served without {names}"
        yield names
    finally:
        lab.up(TIERS)


@pytest.fixture(scope="module")
def run(down, front, url):
    with Visitor(front, url) as visitor:
        done = ansible_playbook(ENV, "site.yml")
    return done, visitor


@long
def test_the_run_goes_on_without_them_and_changes_nothing(run, down):
    done, _ = run
    assert done.returncode == DOWN_STATUS, done.stdout[-4000:]
    hosts = recap(done.stdout)
    assert {name for name, counts in hosts.items() if counts["unreachable"]} == set(down)
    assert not any(counts["changed"] or counts["failed"] for counts in hosts.values()), changes(done.stdout)


@long
def test_it_says_at_the_end_which_hosts_were_down_and_what_to_do(run, down):
    end = " ".join(run[0].stdout.splitlines()[-10:])
    assert all(name in end for name in down), end
    assert "Run the same command again" in end


@long
def test_the_sites_are_served_meanwhile(run):
    _, visitor = run
    assert visitor.served > 20
    assert len(visitor.failures) <= visitor.served / 100, visitor.failures


@long
def test_a_run_on_other_hosts_alone_does_not_mind(down):
    first = next(name for name in TIERS if name not in down)
    done = ansible_playbook(ENV, "site.yml", "--limit", first, "--tags", "base")
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(recap(done.stdout)) == {first} and not changes(done.stdout)


@long
def test_they_come_back_by_themselves(run, lab, front, url):
    lab.up(TIERS)
    assert wait(BACK_SECONDS, lambda: not missing(lab), 2), missing(lab)
    assert steady(front, url)


def test_a_web_host_that_missed_a_deploy_stays_out_of_the_pool_until_it_has_the_release(host, sites):
    """As if it had been away: the others took part in a later deploy, and it runs what it ran before."""
    name, site = hosts_of("web")[-1], sites[0]["name"]
    web, current, record = host(name), f"/srv/{site}/current", "/var/lib/trestle/deploy"

    def states() -> set[tuple[str, str]]:
        return {(s, hosts[name]["state"]) for b in hosts_of("lb") for s, hosts in test_edge.pool(host, b).items()}

    release = web.check_output(f"readlink {current}")
    said = web.check_output(f"cat {record}")
    number, releases = said.split(maxsplit=1)
    restart = f"supervisorctl restart '{site}:*'"

    def record_others(deploy: int) -> None:
        for other in hosts_of("web")[:-1]:
            host(other).check_output(f"echo {deploy} {releases} > {record}")

    others = {(s["name"], "up") for s in sites[1:]}
    try:
        web.check_output(f"cd /srv/{site} && cp -a {release} releases/earlier && ln -sfn releases/earlier current")
        web.check_output(restart)
        record_others(int(number) + 1)
        assert wait(30, lambda: states() == {(site, "outdated")} | others), states()
        assert health(web, site, "ready")[1]["release"] == "earlier", "it is ready, and would be served"
    finally:
        web.run(f"cd /srv/{site} && ln -sfn {release} current && rm -rf releases/earlier")
        web.run(restart)
        record_others(int(number))
    assert wait(30, lambda: states() == {(site, "up")} | others), states()
