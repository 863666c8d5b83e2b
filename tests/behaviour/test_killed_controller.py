"""A controller that is killed in a deploy: the site goes on serving, and the same command again finishes the job.

`make test` kills it at one point, `make test-all` at eleven.
"""

from __future__ import annotations

import json
import shutil
import time

import pytest
import yaml
from conftest import ENV, LONG, ROOT, hosts_of
from runs import Reached, Visitor, ansible_playbook, tasks_done, wait
from test_run_lock import locks
from test_web import health, sites

WEB, SITE = hosts_of("web"), sites()[0]
CRAWL = "Follow the sites' own links through the load balancers"
ROLL = "Drain, switch, restart, await and restore"
# (task, for which time it begins, seconds into it or the step of site-roll that is waited for)
POINTS = {
    "canary": (ROLL, 1, "canary"),
    "lock": ("Refuse to run beside another run", 1, 0.3),
    "build": ("Build the artifacts, which takes a minute or several", 1, 1),
    "bring": ("Bring and install the releases that this host lacks", 1, 0.15),
    "install": ("Bring and install the releases that this host lacks", 1, 0.5),
    "migrate": ("Migrate the databases and run what follows a migration", 1, 1.5),
    "static": ("Bring the static files that the media hosts lack, and remove what no web host names any more", 1, 0.4),
    "drain": (ROLL, 1, "drained"),
    "second": (ROLL, 2, "stopped"),
    "declare": ("Declare what every host runs now to be current", 1, 0.05),
    "crawl": (CRAWL, 1, 0.05),
}
if not LONG:
    POINTS = dict(list(POINTS.items())[:1])
MIGRATION = """from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("stories", "0001_initial")]
    operations = []
"""

pytestmark = pytest.mark.skipif(len(WEB) < 2, reason="one web host cannot be rolled one after another")


def releases(host) -> dict[str, str]:
    """What each web host serves, where it does."""
    answers = {name: health(host(name), SITE, "ready") for name in WEB}
    return {name: answer["release"] for name, (code, answer) in answers.items() if code == 200}


def steps(web, since: int) -> list[str]:
    """What site-roll has done on a host."""
    return web.run(f"journalctl --identifier=site-roll --output=cat --since=@{since}").stdout.splitlines()


@pytest.fixture
def release(tmp_path):
    """release("text"): the options that deploy a release of its own, with a page and a migration that are new."""

    def make(text: str) -> list[str]:
        listed = yaml.safe_load((ROOT / "inventories" / ENV / "group_vars/all/sites.yml").read_text())
        source = ROOT / listed["sites"][SITE]["source"]["path"]
        made = shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
        (made / "stories/static").mkdir(exist_ok=True)
        (made / f"stories/static/{text}.txt").write_text(text)
        (made / f"stories/migrations/0002_{text}.py").write_text(MIGRATION)
        listed["sites"][SITE]["source"]["path"] = str(made)
        file = tmp_path / "sites.json"
        file.write_text(json.dumps(listed))
        return ["-e", f"@{file}"]

    return make


@pytest.fixture(scope="module")
def as_it_was():
    """The environment ends with the release it had."""
    yield
    done = ansible_playbook(ENV, "playbooks/deploy.yml", fast=True)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("point", POINTS)
def test_the_site_goes_on_and_the_same_command_finishes_the_job(point, host, release, front, settings, as_it_was):
    task, nth, when = POINTS[point]
    command = ["playbooks/deploy.yml", *release(f"{point}_{time.time():.0f}")]
    before = releases(host)
    assert len(before) == len(WEB), f"not every web host serves: {before}"
    with Visitor(front, f"https://{settings['sites'][SITE]['domains'][0]}/") as visitor:
        run = Reached(ENV, *command, task=task, nth=nth)
        begun = int(time.time())
        if isinstance(when, str):
            assert wait(60, lambda: any(when in steps(host(name), begun) for name in WEB)), run.said[-3000:]
        else:
            time.sleep(when)
        run.kill()
        again = ansible_playbook(ENV, *command, fast=True)
    after, journal = releases(host), {name: host(name).run("journalctl -t site-roll -n 20").stdout for name in WEB}
    assert again.returncode == 0, f"{again.stdout[-4000:]}\n{journal}"
    assert CRAWL in tasks_done(again.stdout), again.stdout[-4000:]
    assert len(after) == len(WEB) and len(set(after.values())) == 1, (after, journal)
    assert not set(after.values()) & set(before.values()), "the new release was not deployed"
    assert not any(host(name).check_output("ls /var/lib/trestle/drain") for name in WEB), journal
    assert not any(host(name).run("test -e /var/lib/trestle/canary").rc == 0 for name in WEB), journal
    assert not locks(host), again.stdout[-3000:]
    if point != "lock":
        assert "over from your run of" in " ".join(again.stdout.split()), again.stdout[-3000:]
    assert visitor.served > 20 and not visitor.failures, (visitor.failures, journal)
