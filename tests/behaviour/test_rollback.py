"""Versions of a git repository are deployed, gone back from, kept and left; nothing is built on the way back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest
import yaml
from conftest import ENV, ROOT, hosts_of
from runs import ansible_playbook
from test_web import health, sites

WEB = hosts_of("web")
SITE = sites()[0]
pytestmark = pytest.mark.skipif(
    "ROLLBACK" not in os.environ, reason="ROLLBACK=1: its test of the rollback itself has not passed on a lab yet"
)
BUILDS = ("Build the artifacts", "Fetch the artifacts", "Have a container to build in", "Prepare the build host")


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The example with three versions, of which the second has a migration."""
    folder = tmp_path_factory.mktemp("newsroom") / "newsroom"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "db.sqlite3")
    shutil.copytree(ROOT / "examples/newsroom", folder, ignore=ignored)
    git(folder, "init", "-q")
    for version in ("v1", "v2", "v3"):
        with (folder / "stories/apps.py").open("a") as file:
            file.write(f"\nVERSION = '{version}'\n")
        (folder / "stories/static/stories/version.txt").write_text("v1" if version == "v1" else "later")
        if version == "v2":
            (folder / "stories/migrations/0002_nothing_to_undo.py").write_text(
                "from django.db import migrations\n\n\ndef forwards(apps, schema_editor):\n    pass\n\n\n"
                "class Migration(migrations.Migration):\n"
                "    dependencies = [('stories', '0001_initial')]\n"
                "    operations = [migrations.RunPython(forwards, elidable=True)]\n"
            )
        git(folder, "add", ".")
        git(folder, "commit", "-qm", version)
        git(folder, "tag", version)
    return folder


@pytest.fixture(scope="module")
def play(repository, tmp_path_factory):
    """play(playbook, version of the inventory, options): a run with the site's source being the repository."""
    folder = tmp_path_factory.mktemp("run")

    def run(playbook: str, version: str, *options: str) -> subprocess.CompletedProcess:
        entries = yaml.safe_load((ROOT / f"inventories/{ENV}/group_vars/all/sites.yml").read_text())
        entries["sites"][SITE]["source"] = {"git": f"file://{repository}", "version": version}
        (folder / "sites.json").write_text(json.dumps(entries))
        # A few seconds of watching are enough here.
        short = ["-e", f"@{folder / 'sites.json'}", "-e", "canary_seconds=2"]
        return ansible_playbook(ENV, playbook, *short, *options, fast=True)

    return run


@pytest.fixture(scope="module")
def as_it_was():
    """Whatever happens in the tests, the sites end with what the inventory names."""
    yield
    done = ansible_playbook(ENV, "playbooks/deploy.yml", fast=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def no_build_host(lab):
    """The container that builds is away, and cannot be asked for anything."""
    container = lab.client.containers.get(lab.build_container)
    container.stop(timeout=1)
    yield
    container.start()


def running(host) -> set[str]:
    return {health(host(name), SITE, "live")[1]["release"] for name in WEB}


def history(host, name: str) -> list[dict]:
    return [json.loads(line) for line in host(name).check_output(f"cat /srv/{SITE}/releases/.history").splitlines()]


def assert_well(done: subprocess.CompletedProcess, *said: str) -> None:
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout[-4000:]
    for words in said:
        assert words in text, f"{words!r} is not in:\n{done.stdout[-6000:]}"


@pytest.fixture(scope="module")
def deployed(host, play, as_it_was) -> dict[str, str]:
    """The ids of two versions that were deployed one after the other."""
    ids = {}
    for version in ("v1", "v2"):
        done = play("playbooks/deploy.yml", "main", "-e", f"release_version={version}", "-e", f"site={SITE}")
        assert_well(done)
        (ids[version],) = running(host)
    assert ids["v1"] != ids["v2"]
    return ids


def test_a_version_that_is_asked_for_is_deployed_and_remembered(host, deployed):
    for name in WEB:
        last, before = history(host, name)[-1], history(host, name)[-2]
        assert (before["id"], last["id"]) == (deployed["v1"], deployed["v2"])
        assert last["version"].startswith("v2 (") and last["kind"] == "deploy" and last["pin"] and "@" in last["by"]


def test_a_release_with_the_same_wheels_is_installed_in_a_moment(host, deployed):
    """Measured beside the same with a virtualenv of its own, since the machine may be busy."""
    web = host(WEB[0])
    program = "/usr/local/lib/trestle/install-release"
    artifact = web.check_output(f"ls /var/lib/trestle/artifacts/*-{deployed['v1']}.tar")

    def seconds(before: str) -> float:
        web.check_output(f"{before}; rm -rf /srv/{SITE}/releases/{deployed['v1']}")
        begun = time.monotonic()
        web.check_output(f"{program} --keep=9 {SITE} {artifact}")
        return time.monotonic() - begun

    shared = seconds("true")
    # Whatever runs goes on with the files that it has open; the virtualenv is made again in the same place.
    alone = seconds(f"mv /srv/{SITE}/venvs /srv/{SITE}/venvs.kept && mkdir /srv/{SITE}/venvs")
    web.check_output(f"rm -rf /srv/{SITE}/venvs && mv /srv/{SITE}/venvs.kept /srv/{SITE}/venvs")
    print(f"install-release: {shared:.2f} s with a shared virtualenv, {alone:.2f} s with a new one")
    assert shared < alone / 4
    paths = web.check_output(f"readlink -f /srv/{SITE}/releases/*/venv").split()
    assert web.run(f"test -x {paths[0]}/bin/gunicorn && {paths[0]}/bin/gunicorn --version").rc == 0


def test_a_rollback_builds_nothing_and_stays(host, play, deployed, no_build_host, tmp_path):
    last = host(WEB[-1])
    if len(WEB) > 1:
        # This one has neither the release nor its artifact any more.
        last.check_output(f"rm -r /srv/{SITE}/releases/{deployed['v1']} /var/lib/trestle/artifacts/*{deployed['v1']}*")
    cache = ["-e", f"artifact_cache={tmp_path}"]
    checked = play("playbooks/rollback.yml", "main", "-e", f"site={SITE}", *cache, "--check")
    assert_well(checked, f"{SITE} goes back from {deployed['v2']} to {deployed['v1']} (v1 (")
    assert running(host) == {deployed["v2"]}

    back = play("playbooks/rollback.yml", "main", "-e", f"site={SITE}", *cache)
    assert_well(back, "stories.0002_nothing_to_undo came in between and stays in the database; it cannot be undone")
    assert not any(task in back.stdout for task in BUILDS), back.stdout[-3000:]
    assert running(host) == {deployed["v1"]}
    assert history(host, WEB[-1])[-1]["kind"] == "rollback"

    # The inventory's version is another one, and the configuration is rolled out without it.
    site = play("site.yml", "main", "--tags", "release,gunicorn", *cache)
    assert_well(site, f"{SITE} stays on {deployed['v1']} (v1 (")
    assert not any(task in site.stdout for task in BUILDS), site.stdout[-3000:]
    assert running(host) == {deployed["v1"]}

    unknown = play("playbooks/rollback.yml", "main", "-e", f"site={SITE}", "-e", "release_id=0123456789ab")
    assert unknown.returncode == 2
    assert f"{SITE} has no release 0123456789ab: on the hosts are" in " ".join(unknown.stdout.split())


def test_the_table_tells_who_rolled_what(host, play, deployed):
    told = play("playbooks/releases.yml", "main")
    assert_well(told, "(rollback), stays")
    assert all(name in told.stdout for name in WEB) and deployed["v2"] in told.stdout


def test_a_deploy_of_what_the_inventory_names_ends_it(host, play, deployed):
    done = play("playbooks/deploy.yml", "v3")
    assert_well(done)
    (release,) = running(host)
    assert release not in deployed.values()
    last = history(host, WEB[0])[-1]
    assert last["id"] == release and last["version"].startswith("v3 (") and not last["pin"]


def test_a_version_that_is_nowhere_stops_before_any_host_is_touched(play, deployed):
    done = play("playbooks/deploy.yml", "main", "-e", "release_version=v9", "-e", f"site={SITE}")
    assert done.returncode == 2 and "release_version is v9, and file://" in " ".join(done.stdout.split())
    assert "Gather the facts" not in done.stdout
