"""Deploys of more than code: other dependencies, several hosts at once, and a page that fails and only the crawl finds.

Four runs, which are for `make test-all`; what is deployed are the drill's versions of the example.
"""

from __future__ import annotations

import re
import time

import pytest
from conftest import ENV, hosts_of, long
from runs import Visitor, ansible_playbook

from lab.demo import sites_of
from tests.drills.hosts import Hosts
from tests.drills.versions import SITE, Edit, Versions

WEB = hosts_of("web")
DOMAIN = sites_of(ENV)[SITE]["domains"][0]
DRILL = "newsroom/drill.py"
VERSIONS = {
    # A page that only a process with the new dependency can serve.
    "dependency": [
        Edit("requirements.txt", "tabulate==0.9.0\n"),
        Edit(
            DRILL,
            "import tabulate\n\n"
            'urlpatterns.insert(0, path("drill/new/", lambda request: HttpResponse(tabulate.__version__)))\n',
        ),
    ],
    "failing-page": [
        Edit(DRILL, 'urlpatterns.insert(0, path("drill/failing/", lambda request: 1 / 0))\n'),
        Edit("stories/templates/stories/base.html", '<footer><a href="/drill/failing/">More</a>\n', "<footer>\n"),
    ],
}
pytestmark = long


@pytest.fixture(scope="module")
def play(lab, tmp_path_factory):
    """play(playbook, options, version="dependency"): a run that is about the drill's versions of the site.

    The environment's own one is back in the end.
    """
    folder = tmp_path_factory.mktemp("versions")
    versions = Versions(folder / "site")
    common = ("-e", f"@{versions.write_sites(ENV, folder)}", "-e", f"site={SITE}")

    def run(playbook: str, *options: str, version: str = ""):
        chosen = ("-e", f"release_version={versions.make(version, version, VERSIONS[version])}") if version else ()
        return ansible_playbook(ENV, f"playbooks/{playbook}.yml", *common, *chosen, *options)

    yield run
    back = ansible_playbook(ENV, "playbooks/deploy.yml")
    assert back.returncode == 0, back.stdout[-3000:]


def rolls(events: list[dict]) -> dict[str, tuple[float, float]]:
    """When each host's roll began and ended."""
    moments = {what: {e["host"]: e["at"] for e in events if e["what"] == what} for what in ("begun", "restored")}
    return {host: (moments["begun"][host], moments["restored"][host]) for host in moments["begun"]}


@pytest.mark.skipif(len(WEB) < 2, reason="one web host cannot be rolled unnoticed")
def test_other_dependencies_come_with_a_real_restart_and_hosts_go_together_after_the_canary(play, lab, front):
    hosts, began = Hosts(lab, SITE), time.time()
    before = hosts.identities()
    with Visitor(front, f"https://{DOMAIN}/") as visitor:
        # More hosts at once than there are beside the canary.
        done = play("deploy", "-e", f"rolling_batch={len(WEB)}", version="dependency")
    assert done.returncode == 0, done.stdout[-3000:]
    after = hosts.identities()
    assert all(before[name]["pid"] != after[name]["pid"] for name in WEB), "preloaded code stays until a restart"
    with front.session() as session:
        served = [session.get(f"https://{DOMAIN}/drill/new/", timeout=5) for _ in range(3 * len(WEB))]
    assert {answer.text for answer in served} == {"0.9.0"}
    assert visitor.served and not visitor.failures, visitor.failures

    (canary, (_, canary_ended)), *others = sorted(rolls(hosts.journal(began)).items(), key=lambda roll: roll[1])
    assert {canary, *(name for name, _ in others)} == set(WEB)
    assert all(began > canary_ended for _, (began, _) in others), "the canary was not alone"
    if len(others) > 1:
        assert max(began for _, (began, _) in others) < min(ended for _, (_, ended) in others), "one after another"


def test_a_page_that_fails_and_no_check_asks_for_is_found_by_the_crawl(play, lab, front):
    hosts = Hosts(lab, SITE)
    before = {host["release"] for host in hosts.identities().values()}
    done = play("deploy", version="failing-page")
    assert done.returncode != 0, "the run went well"
    found = re.search(rf"{SITE}: 1 of \d+ addresses fail through .*", done.stdout)
    assert found and "/drill/failing/ (500, linked from /" in found[0] and "rollback.yml" in found[0], done.stdout[
        -3000:
    ]
    rolled = {host["release"] for host in hosts.identities().values()}
    assert len(rolled) == 1 and rolled.isdisjoint(before), "nothing is undone"

    back = play("rollback")
    assert back.returncode == 0, "the lock is free, and what ran before stands the crawl:\n" + back.stdout[-3000:]
    assert {host["release"] for host in hosts.identities().values()} == before
    with front.session() as session:
        assert "/drill/failing/" not in session.get(f"https://{DOMAIN}/", timeout=5).text
