"""What is packed of a source, and what makes two builds the same one."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from artifacts import first_holders, in_store, is_whole
from environments import ROOT

spec = importlib.util.spec_from_file_location("pack_sites", ROOT / "roles/build/action_plugins/pack_sites.py")
pack_sites = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack_sites)

DEFAULTS = yaml.safe_load((ROOT / "group_vars/all/sites.yml").read_text())["site_defaults"]


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    (folder / "blog").mkdir(parents=True)
    (folder / "manage.py").write_text("#!/usr/bin/env python\n")
    (folder / "manage.py").chmod(0o755)
    (folder / "blog/settings.py").write_text("DEBUG = True\n")
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(project):
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First")
    git(project, "tag", "v1")
    return project


@pytest.fixture
def pack(tmp_path):
    """pack(source, **site keys): the release of one site and the names in its archive."""

    def run(
        source: dict, dirty: bool = False, builder: str = "1", wanted: str = "", pin: dict | None = None, **keys
    ) -> tuple[dict, list[str]]:
        action = pack_sites.ActionModule.__new__(pack_sites.ActionModule)
        action.builder, action.programs = builder, "programs"
        arguments = {
            "repository": str(tmp_path),
            "cache": str(tmp_path / "cache"),
            "python": "3.13",
            "python_packages": ["gunicorn"],
            "django_packages": ["psycopg"],
            "s3_packages": ["django-storages"],
            "tools": {},
            "dirty": dirty,
            "versions": {"blog": wanted} if wanted else {},
            "pins": {"blog": pin} if pin else {},
        }
        release = action.release(DEFAULTS | {"name": "blog", "source": source, "secret_key": "s"} | keys, arguments)
        if not release["job"]:
            return release, []
        with tarfile.open(release["job"]) as job, tarfile.open(fileobj=job.extractfile("source.tar")) as tar:
            return release, tar.getnames()

    return run


def test_the_same_content_is_the_same_build_whenever_and_wherever_it_lies(pack, project, tmp_path):
    first, names = pack({"path": "project"})
    assert names == ["blog/settings.py", "manage.py"]
    elsewhere = tmp_path / "elsewhere"
    project.rename(elsewhere)
    (elsewhere / "blog/settings.py").touch()
    assert pack({"path": str(elsewhere)})[0]["key"] == first["key"]
    (elsewhere / "manage.py").chmod(0o644)
    assert pack({"path": str(elsewhere)})[0]["key"] != first["key"], "whether a file can be run is part of it"


def test_a_site_with_uploads_in_s3_gets_what_it_needs_for_them(pack, project):
    def packages(**keys) -> list[str]:
        with tarfile.open(pack({"path": "project"}, **keys)[0]["job"]) as job:
            return json.load(job.extractfile("job.json"))["default_packages"]

    assert packages() == packages(media_storage="media") == ["gunicorn", "psycopg"]
    assert packages(media_storage="s3") == ["gunicorn", "psycopg", "django-storages"]
    assert packages(media_storage="s3", app_type="wsgi") == ["gunicorn"]


def test_what_is_made_while_working_is_no_part_of_a_project(pack, project):
    before = pack({"path": "project"})[0]["key"]
    for name in ("db.sqlite3", "blog/__pycache__/x.pyc", ".venv/bin/python", "node_modules/a/index.js"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    assert pack({"path": "project"})[0]["key"] == before


def test_of_a_work_tree_what_git_tracks_is_packed(pack, repository):
    before, names = pack({"path": "project"})
    (repository / ".gitignore").write_text("local.env\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "Ignore")
    (repository / "local.env").write_text("SECRET=1\n")
    release, names = pack({"path": "project"})
    assert "local.env" not in names and release["key"] != before["key"]
    assert release["version"] == git(repository, "log", "-1", "--format=%h").strip()


def test_a_dirty_folder_stops_unless_it_is_allowed(pack, repository):
    (repository / "blog/settings.py").write_text("DEBUG = False\n")
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.path: .* has 1 changes that are not committed"):
        pack({"path": "project"})
    assert pack({"path": "project"}, dirty=True)[0]["version"].endswith("+")


def test_a_version_of_a_repository_is_packed_whatever_lies_in_its_work_tree(pack, repository):
    first = pack({"path": "project"})[0]["key"]
    (repository / "blog/settings.py").write_text("DEBUG = False\n")
    git(repository, "commit", "-qam", "Second")
    url = f"file://{repository}"
    assert pack({"git": url, "version": "v1"})[0]["key"] == first
    assert pack({"git": url, "version": "main"})[0]["key"] != first
    _, names = pack({"git": url, "version": "main", "folder": "blog"})
    assert names == ["settings.py"]
    git(repository, "commit", "-q", "--allow-empty", "-m", "Third")
    assert git(repository, "rev-parse", "HEAD")[:10] in pack({"git": url, "version": "main"})[0]["version"], (
        "a branch is asked for anew"
    )


def test_a_version_or_folder_that_is_not_there_is_named(pack, repository):
    url = f"file://{repository}"
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.version: .* has no version v2"):
        pack({"git": url, "version": "v2"})
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.folder: .* has no folder backend"):
        pack({"git": url, "folder": "backend"})
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.path: there is no folder"):
        pack({"path": "nowhere"})


def test_a_version_that_is_asked_for_is_packed_instead_of_the_inventory_s(pack, repository):
    first = pack({"path": "project"})[0]
    assert not first["chosen"]
    (repository / "blog/settings.py").write_text("DEBUG = False\n")
    git(repository, "commit", "-qam", "Second")
    second = pack({"path": "project"})[0]
    commit = git(repository, "rev-parse", "v1").strip()
    # In a work tree with changes, which is not looked at.
    (repository / "manage.py").write_text("half done")
    asked, names = pack({"path": "project"}, wanted="v1")
    assert asked["key"] == first["key"] != second["key"] and names == ["blog/settings.py", "manage.py"]
    assert asked["version"] == f"v1 ({commit[:10]})" and asked["chosen"]
    assert pack({"path": "project"}, wanted=commit[:7])[0]["version"] == commit[:10]
    assert pack({"path": "project/blog"}, wanted="v1")[1] == ["settings.py"]
    url = f"file://{repository}"
    assert pack({"git": url, "version": "main"}, wanted="v1")[0]["key"] == first["key"]
    package = pack({"pypi": "blog[s3]==1.0"}, wanted="2.0")[0]
    assert package["key"] == pack({"pypi": "blog[s3]==2.0"})[0]["key"] and package["version"] == "blog[s3]==2.0"


def test_a_version_that_is_asked_for_and_not_there_is_named(pack, repository, tmp_path):
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.path: .*project is in no git work tree .* v9"):
        pack({"path": "project"}, wanted="v9")
    (tmp_path / "plain").mkdir()
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.path: .*plain is in no git work tree .* v1"):
        pack({"path": "plain"}, wanted="v1")
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.version: .* has no version v9"):
        pack({"git": f"file://{repository}"}, wanted="v9")
    with pytest.raises(AnsibleActionFail, match=r"sites.blog.source.pypi: newest is no version"):
        pack({"pypi": "blog==1"}, wanted="newest")


def test_of_a_site_that_stays_on_its_release_nothing_is_packed(pack, project, tmp_path):
    packed = pack({"path": "project"})[0]
    (project / "manage.py").unlink()
    stays = pack({"path": "nowhere"}, pin={"id": "abc", "version": "v1"})[0]
    assert (stays["id"], stays["version"], stays["chosen"]) == ("abc", "v1", True)
    assert stays["configuration"] == packed["configuration"], "a configuration that is known is not checked again"
    store = tmp_path / "store"
    store.mkdir()
    lacking = ["key-abc.tar", f"abc-{stays['configuration']}.tar.gz"]
    held = {"web1": {"artifacts": [*lacking, "key-xyz.tar"]}}
    assert {one["file"] for one in first_holders(held, in_store([stays], str(store)))} == set(lacking)
    (store / "key-abc.tar").touch()
    (found,) = in_store([stays], str(store))
    assert found["artifact"].endswith("key-abc.tar") and found["folder"] == "/srv/blog/releases/abc"


def test_what_an_artifact_is_made_from_decides_over_its_key(pack, project):
    first = pack({"path": "project"})[0]["key"]
    other = {
        "python_packages": ["sentry-sdk"],
        "build_packages": ["libxml2-dev"],
        "extras": ["s3"],
        "node": {"folder": "."},
        "app_type": "wsgi",
    }
    for name, value in other.items():
        assert pack({"path": "project"}, **{name: value})[0]["key"] != first, name
    assert pack({"path": "project"}, builder="2")[0]["key"] != first
    assert pack({"pypi": "blog==1"})[0]["key"] != pack({"pypi": "blog==2"})[0]["key"]


def test_staging_and_production_share_an_artifact_and_have_checks_of_their_own(pack, project):
    production, _ = pack({"path": "project"}, settings_module="blog.settings", environment={"A": "1"})
    staging, _ = pack({"path": "project"}, settings_module="blog.staging", environment={"A": "1"})
    assert staging["key"] == production["key"] and staging["configuration"] != production["configuration"]
    changed, _ = pack({"path": "project"}, settings_module="blog.settings", environment={"A": "2"})
    assert changed["configuration"] != production["configuration"]


def test_the_password_of_an_index_is_in_the_job_alone(pack, project):
    plain, _ = pack({"path": "project"})
    with_password, _ = pack({"path": "project"}, extra_index_urls=["https://me:hunter2@packages.example.com/simple"])
    assert plain["key"] == with_password["key"]
    assert "hunter2" not in json.dumps(with_password)
    job = Path(with_password["job"])
    assert "hunter2" in job.read_text() and job.stat().st_mode & 0o077 == 0


def test_the_password_of_a_repository_is_not_said(pack):
    with pytest.raises(AnsibleActionFail) as failure:
        pack({"git": "https://me:hunter2@127.0.0.1:9/blog.git", "version": "v1"})
    assert "127.0.0.1" in str(failure.value) and "hunter2" not in str(failure.value)


def test_a_store_knows_an_artifact_by_its_key_and_static_files_by_artifact_and_configuration(tmp_path):
    release = {"site": "blog", "key": "k" * 16, "configuration": "c" * 10}
    assert not is_whole(in_store([release], str(tmp_path)))
    (tmp_path / f"{'k' * 16}-abc.tar").touch()
    (tmp_path / f"xyz-{'c' * 10}.tar.gz").touch()
    found = in_store([release], str(tmp_path))
    assert found[0]["id"] == "abc" and found[0]["static"] == "", "another artifact's static files are not this one's"
    assert not is_whole(found)
    (tmp_path / f"abc-{'c' * 10}.tar.gz").touch()
    assert is_whole(in_store([release], str(tmp_path)))


def test_what_is_lacking_is_fetched_from_the_first_host_that_has_it(tmp_path):
    release = {"site": "blog", "key": "k" * 16, "configuration": "c" * 10}
    artifact, static = f"{'k' * 16}-abc.tar", f"abc-{'c' * 10}.tar.gz"
    told = {
        "web1": {"artifacts": [f"xyz-{'c' * 10}.tar.gz", "other-xyz.tar"]},
        "web2": {"artifacts": [artifact]},
        "web3": {"artifacts": [artifact, static]},
    }
    fetched = [{"host": "web3", "file": static}, {"host": "web2", "file": artifact}]
    assert first_holders(told, in_store([release], str(tmp_path))) == fetched
    (tmp_path / artifact).touch()
    assert first_holders(told, in_store([release], str(tmp_path))) == fetched[:1]
    assert first_holders({}, in_store([release], str(tmp_path))) == []


def test_of_what_nobody_has_built_nothing_is_fetched(tmp_path):
    """Releases before it were checked with the same configuration: their static files are not its."""
    release = {"site": "blog", "key": "k" * 16, "configuration": "c" * 10}
    told = {"web1": {"artifacts": ["other-xyz.tar", f"xyz-{'c' * 10}.tar.gz"]}}
    assert first_holders(told, in_store([release], str(tmp_path))) == []


def test_an_archive_depends_on_nothing_but_its_files(tmp_path):
    (tmp_path / "b").write_text("b")
    (tmp_path / "a").write_text("a")
    files = [tmp_path / "b", tmp_path / "a"]
    first = pack_sites.pack({tmp_path: files})
    (tmp_path / "a").touch()
    assert pack_sites.pack({tmp_path: files[::-1]}) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {member.mtime for member in tar} == {0}
