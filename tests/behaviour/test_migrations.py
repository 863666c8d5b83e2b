"""Migrations and the crawl where they run: through pgpool, and through the load balancers."""

from __future__ import annotations

import json
import shlex

import pytest
from conftest import hosts_of

SITE = "newsroom"
WEB = hosts_of("web")[0]
COPY = "000000000000"
MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("stories", "{}")]
    operations = [{}]
"""
HOLD = """
import time, django
django.setup()
from django.db import connection, transaction
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("LOCK TABLE stories_story IN ACCESS SHARE MODE")
    print("held", flush=True)
    time.sleep(15)
"""


@pytest.fixture
def release(host):
    """A copy of the running release with one more migration; afterwards the database is as before."""
    web, folder = host(WEB), f"/srv/{SITE}/releases"
    migrations = f"{folder}/{COPY}/project/stories/migrations"
    latest = web.check_output(f"cd /srv/{SITE}/current/project/stories/migrations && ls 0*.py | sort | tail -n 1")[:-3]

    def with_migration(operations: str, check: bool = False):
        text = shlex.quote(MIGRATION.format(latest, operations))
        web.check_output(f"rm -rf {folder}/{COPY} && cp -a $(readlink -f /srv/{SITE}/current) {folder}/{COPY}")
        web.check_output(f"printf %s {text} > {migrations}/9999_trestle.py")
        job = [{"site": SITE, "release": COPY, "after": [], "allow": []}]
        options = "--lock-timeout=0.5 --attempts=40 --pause=0.3" + " --check" * check
        return web.run(f"/usr/local/lib/trestle/migrate-release {options} {shlex.quote(json.dumps(job))}")

    yield with_migration
    web.run(f"/usr/local/lib/trestle/site-run {SITE} {COPY} django-admin migrate stories {latest}")
    web.check_output(f"rm -rf {folder}/{COPY}")


def test_a_migration_that_breaks_the_running_release_is_refused(release):
    said = release("migrations.RemoveField('story', 'headline')", check=True)
    assert said.rc == 1, said.stdout + said.stderr
    assert (
        f"{SITE}: stories.9999_trestle is refused (Remove field headline from story): the running release"
        in said.stderr
    )


def test_a_lock_is_asked_for_again_through_pgpool_until_it_is_free(host, release):
    hold = f"/usr/local/lib/trestle/site-run {SITE} current python -c {shlex.quote(HOLD)}"
    host(WEB).check_output(f"rm -f /run/held; ({hold} < /dev/null > /run/held 2>&1 &)")
    host(WEB).check_output("timeout 60 sh -c 'until grep -q held /run/held; do sleep 0.1; done'")
    said = release("migrations.AddField('story', 'trestle', models.TextField(null=True))")
    assert said.rc == 0, said.stdout + said.stderr
    assert "no lock within 0.5 s, 39 tries left" in said.stdout


def test_the_sites_own_links_are_well_seen_from_a_web_host(host, front, lab, sites):
    job = {
        "address": front.address,
        "ca": lab.ca_file.read_text(),
        "pages": 30,
        "seconds": 20,
        "sites": [{"name": site["name"], "domains": site["domains"]} for site in sites],
    }
    said = host(WEB).run(f"/usr/local/lib/trestle/site-crawl {shlex.quote(json.dumps(job))}")
    assert said.rc == 0, said.stderr
    told = dict(line.split(": ") for line in said.stdout.splitlines())
    assert told.keys() == {site["name"] for site in sites}
    assert int(told[SITE].split()[0]) > 10, "the example has more pages than that"
