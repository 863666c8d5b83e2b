"""A version of a git repository is deployed, gone back from, and left; nothing is built on the way back.

Its first version is what the environment runs by itself, so that the way back is the way out too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest
import yaml
from conftest import ENV, ROOT, hosts_of, long
from runs import ansible_playbook, tasks_done
from test_build import BUILDS
from test_web import health, sites

WEB = hosts_of("web")
SITE = sites()[0]
pytestmark = long


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", folder, *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The example as it is (v1), and with a change and a migration (v2)."""
    folder = tmp_path_factory.mktemp("newsroom") / "newsroom"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "db.sqlite3")
    shutil.copytree(ROOT / "examples/newsroom", folder, ignore=ignored)
    git(folder, "init", "-q")
    commit(folder, "v1")
    (folder / "stories/static/stories/version.txt").write_text("v2")
    (folder / "stories/migrations/0002_nothing_to_undo.py").write_text(
        "from django.db import migrations\n\n\ndef forwards(apps, schema_editor):\n    pass\n\n\n"
        "class Migration(migrations.Migration):\n"
        "    dependencies = [('stories', '0001_initial')]\n"
        "    operations = [migrations.RunPython(forwards, elidable=True)]\n"
    )
    commit(folder, "v2")
    return folder


def commit(folder, version: str) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "-qm", version)
    git(folder, "tag", version)


@pytest.fixture(scope="module")
def play(repository, tmp_path_factory):
    """play(playbook, options): a run in which the inventory names v1 of the repository for the site."""
    file = tmp_path_factory.mktemp("run") / "sites.json"
    entries = yaml.safe_load((ROOT / f"inventories/{ENV}/group_vars/all/sites.yml").read_text())
    entries["sites"][SITE]["source"] = {"git": f"file://{repository}", "version": "v1"}
    file.write_text(json.dumps(entries))

    def run(playbook: str, *options: str) -> subprocess.CompletedProcess:
        return ansible_playbook(ENV, playbook, "-e", f"@{file}", *options, fast=True)

    return run


@pytest.fixture(scope="module")
def own(host) -> str:
    """The release that the environment runs by itself; whatever happens in the tests, it does so in the end."""
    (release,) = running(host)
    yield release
    if running(host) != {release} or history(host, WEB[0])[-1]["pin"]:
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
def deployed(host, play, own) -> str:
    """The id of the version that was asked for."""
    assert_well(play("playbooks/deploy.yml", "-e", "release_version=v2", "-e", f"site={SITE}"))
    (release,) = running(host)
    assert release != own
    return release


def test_a_version_that_is_asked_for_is_deployed_and_remembered(host, own, deployed):
    for name in WEB:
        before, last = history(host, name)[-2:]
        assert (before["id"], last["id"]) == (own, deployed)
        assert last["version"].startswith("v2 (") and last["kind"] == "deploy" and last["pin"] and "@" in last["by"]


def test_a_release_with_the_same_wheels_is_installed_in_a_moment(host, own, deployed):
    """Measured beside the same with a virtualenv of its own, since the machine may be busy."""
    web = host(WEB[0])
    artifacts = "/var/lib/trestle/artifacts"
    files = web.check_output(f"ls {artifacts}/*-{own}.tar; ls -t {artifacts}/{own}-*.tar.gz | head -n 1").split()

    def seconds(before: str) -> float:
        web.check_output(f"{before}; rm -rf /srv/{SITE}/releases/{own}")
        begun = time.monotonic()
        web.check_output(f"/usr/local/lib/trestle/install-release --keep=9 {SITE} {' '.join(files)}")
        return time.monotonic() - begun

    shared = seconds("true")
    # Whatever runs goes on with the files that it has open; the virtualenv is made again in the same place.
    alone = seconds(f"mv /srv/{SITE}/venvs /srv/{SITE}/venvs.kept && mkdir /srv/{SITE}/venvs")
    web.check_output(f"rm -rf /srv/{SITE}/venvs && mv /srv/{SITE}/venvs.kept /srv/{SITE}/venvs")
    print(f"install-release: {shared:.2f} s with a shared virtualenv, {alone:.2f} s with a new one")
    assert shared < alone / 4
    paths = web.check_output(f"readlink -f /srv/{SITE}/releases/*/venv").split()
    assert web.run(f"test -x {paths[0]}/bin/gunicorn && {paths[0]}/bin/gunicorn --version").rc == 0


def test_what_was_asked_for_stays_when_the_configuration_is_rolled_out(host, play, deployed):
    done = play("site.yml", "--tags", "release,gunicorn")
    assert_well(done, f"{SITE} stays on {deployed} (v2 (")
    assert running(host) == {deployed}


def test_a_rollback_builds_nothing_and_names_migrations_that_stay(host, play, own, deployed, no_build_host, tmp_path):
    if len(WEB) > 1:
        # This one has neither the release nor its artifact any more.
        host(WEB[-1]).check_output(f"rm -r /srv/{SITE}/releases/{own} /var/lib/trestle/artifacts/*{own}*")
    done = play("playbooks/rollback.yml", "-e", f"site={SITE}", "-e", f"artifact_cache={tmp_path}")
    assert_well(
        done,
        f"{SITE} goes back from {deployed} to {own}",
        "stories.0002_nothing_to_undo came in between and stays in the database; it cannot be undone",
    )
    assert not set(BUILDS) & set(tasks_done(done.stdout)), done.stdout[-3000:]
    assert running(host) == {own}
    last = history(host, WEB[-1])[-1]
    assert last["kind"] == "rollback" and last["pin"]


def test_the_table_tells_who_rolled_what(play, deployed):
    told = play("playbooks/releases.yml")
    assert_well(told, "(rollback), stays")
    assert all(name in told.stdout for name in WEB) and deployed in told.stdout


def test_a_deploy_of_what_the_inventory_names_ends_it(host, play, own, deployed):
    done = play("playbooks/deploy.yml")
    assert_well(done)
    assert not set(BUILDS) & set(tasks_done(done.stdout)), "the same content is the same release"
    assert running(host) == {own}
    assert not history(host, WEB[0])[-1]["pin"]


def test_a_version_that_is_nowhere_stops_before_any_host_is_touched(play):
    done = play("playbooks/deploy.yml", "-e", "release_version=v9", "-e", f"site={SITE}")
    assert done.returncode == 2 and "release_version is v9, and file://" in " ".join(done.stdout.split())
    assert tasks_done(done.stdout) == ["Refuse what cannot work"], done.stdout[-3000:]
