"""Artifacts are built once and are the same bytes everywhere; what cannot run is found before any server is touched."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from conftest import ENV, hosts_of
from runs import ansible_playbook, tasks_done

WEB = hosts_of("web")
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "blog"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
ROOT_URLCONF = "blog.urls"
USE_TZ = True
"""
MODEL = "from django.db import models\n\n\nclass Post(models.Model):\n    title = models.CharField(max_length=80)\n"
# The tasks that a run does only where something is to be built.
BUILDS = (
    "Build the artifacts, which takes a minute or several",
    "Have a container to build in",
    "Ask what it is prepared for",
)
UNKNOWN = "a-distribution-that-nobody-has-made==1.0"


def store(host, name: str) -> dict[str, str]:
    """The artifacts that a web host keeps, with their hashes."""
    lines = host(name).check_output("cd /var/lib/trestle/artifacts && sha256sum *.tar").splitlines()
    return {line.split()[1]: line.split()[0] for line in lines}


def ids(host, name: str) -> set[str]:
    return {Path(path).name for path in host(name).check_output("readlink -f /srv/*/current").split()}


def test_every_web_host_runs_from_the_same_bytes_and_their_hash_is_their_name(host):
    stores = [store(host, name) for name in WEB]
    assert stores[0] and all(other == stores[0] for other in stores)
    for file, digest in stores[0].items():
        assert file.removesuffix(".tar").rpartition("-")[2] == digest[:12], file
    running = [ids(host, name) for name in WEB]
    assert all(other == running[0] for other in running)
    assert running[0] <= {digest[:12] for digest in stores[0].values()}


def test_another_engineer_s_controller_fetches_what_is_built_and_builds_nothing(host, tmp_path):
    done = ansible_playbook(ENV, "playbooks/build.yml", "-e", f"artifact_cache={tmp_path}")
    assert done.returncode == 0, done.stdout[-3000:]
    did = tasks_done(done.stdout)
    assert "Fetch what another controller has built from the first server that has it" in did, done.stdout[-3000:]
    assert not set(BUILDS) & set(did), done.stdout[-3000:]
    fetched = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("artifacts/*.tar")}
    kept = store(host, WEB[0])
    assert fetched and all(kept[name] == digest for name, digest in fetched.items())


def test_web_hosts_have_no_compiler(host):
    for name in WEB:
        assert host(name).run("command -v gcc cc make npm").rc != 0, name


@pytest.fixture
def project(tmp_path):
    """project("name", file=text, ...): the entry of a site whose project has one application, blog."""

    def make(name: str, **files: str) -> dict:
        content = {
            "requirements.txt": "django\n",
            "blog/__init__.py": "",
            "blog/urls.py": "urlpatterns = []\n",
            "blog/settings.py": SETTINGS,
        }
        for path, text in (content | files).items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return {
            "source": {"path": str(tmp_path / name)},
            "domains": [f"{name}.example.com"],
            "settings_module": "blog.settings",
            "check_fail_level": "ERROR",
        }

    return make


@pytest.fixture
def build(tmp_path):
    """build({name: entry}): what playbooks/build.yml says when these are the sites."""

    def run(sites: dict) -> subprocess.CompletedProcess:
        file = tmp_path / "sites.json"
        file.write_text(json.dumps({"sites": sites}))
        # A cache of its own, so that nothing of it stays in that of the environment.
        cache = f"artifact_cache={tmp_path / 'cache'}"
        return ansible_playbook(ENV, "playbooks/build.yml", "-e", f"@{file}", "-e", cache)

    return run


def assert_told(done: subprocess.CompletedProcess, *sentences: str):
    said = done.stdout.replace("\\n", "\n")
    assert done.returncode == 2, said[-3000:]
    for sentence in sentences:
        assert sentence in said, f"{sentence!r} is not in:\n{said[-6000:]}"


def test_what_cannot_be_built_stops_with_the_build_s_own_error(build, project):
    done = build(
        {
            "missing": project("missing", **{"requirements.txt": f"{UNKNOWN}\n"}),
            "nothing": project("nothing", **{"requirements.txt": ""}) | {"dependency_file": "requirements/prod.txt"},
        }
    )
    assert_told(
        done,
        f"No matching distribution found for {UNKNOWN}",
        "nothing: dependency_file: the source has no file requirements/prod.txt.",
    )


def test_what_cannot_run_stops_with_one_sentence(build, project):
    done = build(
        {
            "settings": project("settings") | {"settings_module": "blog.production"},
            "wsgi": project("wsgi") | {"wsgi_module": "blog.asgi:app"},
            "models": project("models", **{"blog/models.py": MODEL, "blog/migrations/__init__.py": ""}),
            "checks": project("checks", **{"blog/settings.py": SETTINGS + "MIDDLEWARE = 'none'\n"}),
        }
    )
    assert_told(
        done,
        "sites.settings.settings_module: blog.production does not import (ModuleNotFoundError: "
        "No module named 'blog.production'): mend it, or name another.",
        "sites.wsgi.wsgi_module: blog.asgi:app does not import",
        "sites.models.makemigrations_check: the models have changes that are in no migration",
        "blog/migrations/0001_initial.py",
        "sites.checks",
    )


def test_nothing_of_a_failed_build_reached_a_server(host):
    for name in WEB:
        assert not {"missing", "settings", "wsgi", "models"} & set(host(name).check_output("ls /srv").split())
