"""Releases on a web host: installed from artifacts, remembered, and removed when nothing needs them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import programs
import pytest

sys.path.insert(0, str(programs.ROLES / "release/files/usr/local/lib/trestle"))
import release_store

install_release = programs.load("release", "install-release")
program = programs.load("release", "site-releases")

PIP = list(Path("/usr/share/python-wheels").glob("pip-*.whl"))


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A web host's folders, with one site."""
    for module in (release_store, program):
        monkeypatch.setattr(module, "SRV", tmp_path / "srv")
        monkeypatch.setattr(module, "ARTIFACTS", tmp_path / "artifacts")
    monkeypatch.setattr(program, "DRAIN", tmp_path / "drain")
    monkeypatch.setattr(release_store, "running", set)
    monkeypatch.setattr(install_release.Install, "own", lambda self, folder: None)
    (tmp_path / "srv/blog/etc").mkdir(parents=True)
    (tmp_path / "srv/blog/etc/environment").touch()
    (tmp_path / "srv/blog/releases").mkdir()
    (tmp_path / "artifacts").mkdir()
    return tmp_path


@pytest.fixture
def site(host) -> release_store.Site:
    return release_store.Site("blog")


def finished(site: release_store.Site, release: str, when: int) -> None:
    folder = site.releases / release
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"version": f"v-{release}"}))
    (folder / ".ready").touch()
    os.utime(folder / ".ready", (when, when))


def switch(site: release_store.Site, release: str) -> None:
    (site.root / "current").unlink(missing_ok=True)
    (site.root / "current").symlink_to(f"releases/{release}")


def rolled(site: release_store.Site, release: str, when: int, kind: str = "deploy", pin: str = "") -> bool:
    """As site-releases does it after a roll."""
    switch(site, release)
    entry = {"id": release, "version": "", "kind": kind, "by": "ada@desk", "pin": pin, "time": when}
    return site.record(entry)


def there(site: release_store.Site) -> set[str]:
    return {folder.name for folder in site.folders()}


# What is remembered.


def test_a_line_is_written_only_where_it_is_news(site):
    finished(site, "a", 1)
    assert rolled(site, "a", 10)
    assert not rolled(site, "a", 20), "a second run of the same changes nothing"
    assert rolled(site, "a", 30, pin="digest"), "that it stays is news"
    assert [line["time"] for line in site.history()] == [10, 30]


def test_what_is_not_current_is_not_remembered(site):
    switch(site, "a")
    assert not site.record({"id": "b", "version": "", "kind": "deploy", "by": "", "pin": "", "time": 1})
    assert site.history() == []


def test_a_history_does_not_grow_for_ever(site, monkeypatch):
    monkeypatch.setattr(release_store, "LINES", 3)
    for when in range(6):
        rolled(site, f"r{when}", when)
    assert [line["time"] for line in site.history()] == [3, 4, 5]


def test_a_rollback_goes_to_the_newest_other_release_that_was_current_and_is_there(site):
    for when, release in enumerate("abcd"):
        finished(site, release, when)
    assert site.before() == ""
    rolled(site, "a", 10)
    rolled(site, "b", 20)
    assert site.before() == "a", "c and d never ran"
    rolled(site, "c", 30)
    assert site.before() == "b"
    rolled(site, "b", 40, kind="rollback")
    assert site.before() == "c"
    (site.releases / "c/.ready").unlink()
    assert site.before() == "a"


def test_the_state_of_a_host_is_told(host, site, capsys, monkeypatch):
    finished(site, "a", 7)
    rolled(site, "a", 10)
    (site.releases / "a/static").mkdir()
    (site.releases / "a/static/.release-a-c0ffee").write_text("d1")
    (host / "artifacts/key-a.tar").touch()
    (host / "artifacts/.ansible_tmp0key-b.tar").touch()  # of a copy that was killed
    (host / "drain").mkdir()
    (host / "drain/manual").touch()
    monkeypatch.setattr(sys, "argv", ["site-releases", "list"])
    assert program.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sites"]["blog"]["current"] == "a" and told["sites"]["blog"]["history"][0]["by"] == "ada@desk"
    assert told["sites"]["blog"]["releases"] == {
        "a": {"version": "v-a", "installed": 7, "configurations": ["c0ffee"], "static": ["d1"]}
    }
    assert told["artifacts"] == ["key-a.tar"] and told["drained"] == ["manual"]


def test_what_was_rolled_is_recorded_and_older_ones_go(site, capsys, monkeypatch):
    for when, release in enumerate("abc"):
        finished(site, release, when)
    rolled(site, "a", 10)
    rolled(site, "b", 20)
    switch(site, "c")
    entry = {"site": "blog", "id": "c", "version": "v3", "kind": "deploy", "by": "ada", "pin": "", "time": 30}
    monkeypatch.setattr(sys, "argv", ["site-releases", "record", "--keep=2", json.dumps([entry])])
    for said in ("recorded: blog c\n", ""):
        assert program.main() == 0
        assert capsys.readouterr().out == said
        assert there(site) == {"b", "c"}


# What is removed.


def test_the_newest_stay(site):
    for when, release in enumerate("abcdef"):
        finished(site, release, when)
        rolled(site, release, when)
    site.prune(3)
    assert there(site) == {"d", "e", "f"}
    site.prune(1)
    assert there(site) == {"e", "f"}, "the running one, and the one that a rollback would go to"


def test_what_was_current_again_is_newer_than_its_folder(site):
    for when, release in enumerate("abcd"):
        finished(site, release, when)
        rolled(site, release, when)
    rolled(site, "a", 10, kind="rollback")
    rolled(site, "d", 11)
    finished(site, "e", 12)
    rolled(site, "e", 12)
    site.prune(3)
    assert there(site) == {"a", "d", "e"}


def test_neither_what_is_installed_nor_what_a_process_still_runs_is_removed(site, monkeypatch):
    for when, release in enumerate("abcdef"):
        finished(site, release, when)
    rolled(site, "f", 10)
    monkeypatch.setattr(release_store, "running", lambda: {site.releases / "b/project/blog", Path("/")})
    site.prune(1, new="a")
    assert there(site) == {"a", "b", "f"}


def test_bad_releases_do_not_push_out_the_one_to_go_back_to(site):
    for when, release in enumerate("ab"):
        finished(site, release, when)
        rolled(site, release, when)
    for when, release in enumerate(["bad1", "bad2", "bad3"], 10):
        finished(site, release, when)
        site.prune(2, new=release)
    assert {"a", "b"} <= there(site)


def test_what_an_interrupted_install_left_is_removed(site):
    finished(site, "a", 1)
    rolled(site, "a", 1)
    (site.releases / "half").mkdir()
    (site.venvs / "unused").mkdir(parents=True)
    site.prune(5)
    assert there(site) == {"a"} and not list(site.venvs.iterdir())


def test_artifacts_stay_as_long_as_their_releases(host, site):
    finished(site, "a", 1)
    for name in ("key-a.tar", "a-c0ffee.tar.gz", "key-b.tar", "b-c0ffee.tar.gz", "key-new.tar"):
        (host / "artifacts" / name).touch()
        if "new" not in name:
            os.utime(host / "artifacts" / name, (1, 1))
    for name, when in ((".incoming.old", 1), (".incoming.now", time.time())):
        (host / "artifacts" / name).mkdir()
        (host / "artifacts" / name / "key-c.tar").touch()
        os.utime(host / "artifacts" / name, (when, when))
    release_store.prune_artifacts()
    shutil.rmtree(host / "artifacts/.incoming.now")
    assert {path.name for path in (host / "artifacts").iterdir()} == {"key-a.tar", "a-c0ffee.tar.gz", "key-new.tar"}


# What is installed.


def wheel(version: str) -> bytes:
    """A wheel with a module and a script, as a build backend makes it."""
    info = f"greeting-{version}.dist-info"
    files = {
        "greeting.py": f"def main():\n    print('greeting {version}')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: greeting\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


@pytest.fixture
def make(host):
    """make(id, code, version of the wheel): an artifact."""

    def run(release: str, code: str = "", version: str = "1.0", whole: bool = True) -> Path:
        artifact = host / "artifacts" / f"key-{release}.tar"
        files = {
            "manifest.json": json.dumps({"version": release}).encode(),
            f"wheels/greeting-{version}-py3-none-any.whl": wheel(version) if whole else b"cut short",
            "project/blog.py": code.encode(),
        }
        with tarfile.open(artifact, "w") as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return artifact

    return run


@pytest.fixture
def install(make, monkeypatch):
    """install(...): the same, and the status of install-release."""

    def run(*arguments, **options) -> int:
        artifact = make(*arguments, **options)
        # The names of releases are short here.
        monkeypatch.setattr(install_release, "is_whole", lambda artifact: True)
        monkeypatch.setattr(sys, "argv", ["install-release", "--keep=2", "blog", str(artifact)])
        return install_release.main()

    if not PIP:
        pytest.skip("this machine has no pip of Debian's")
    return run


def greeting(site: release_store.Site, release: str) -> str:
    return subprocess.check_output([site.releases / release / "venv/bin/greet"], text=True).strip()


def test_a_run_that_goes_on_a_day_later_finds_what_it_had_brought_for_its_other_sites(host, make, install):
    brought = make("of-shop")
    os.utime(brought, (1, 1))
    assert install("a") == 0
    assert brought.exists()


def test_releases_with_the_same_wheels_share_a_virtualenv_which_goes_with_the_last_of_them(site, install):
    for release, version in (("a", "1.0"), ("b", "1.0"), ("c", "2.0")):
        assert install(release, f"NAME = '{release}'", version) == 0
        rolled(site, release, 2**31 + ord(release))
    assert greeting(site, "b") == "greeting 1.0" and greeting(site, "c") == "greeting 2.0"
    assert (site.releases / "a/venv").resolve() == (site.releases / "b/venv").resolve()
    site.prune(2)
    assert there(site) == {"b", "c"} and len(list(site.venvs.iterdir())) == 2
    rolled(site, "c", 2**32, pin="news")
    switch(site, "c")
    (site.releases / "b/.ready").unlink()
    site.prune(2)
    assert [venv.name for venv in site.venvs.iterdir()] == [(site.releases / "c/venv").resolve().name]


def test_a_virtualenv_is_named_by_what_is_in_its_wheels(tmp_path):
    def digest(*wheels: tuple[str, bytes]) -> str:
        with tarfile.open(tmp_path / "artifact.tar", "w") as tar:
            for name, content in wheels:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        with tarfile.open(tmp_path / "artifact.tar") as tar:
            return install_release.wheels_digest(tar, tar.getmembers())

    one, two = ("wheels/a-1-py3-none-any.whl", b"1"), ("wheels/b-1-py3-none-any.whl", b"1")
    assert digest(one, two) == digest(two, one)
    assert len({digest(one, two), digest(one), digest(), digest((one[0], b"2"), two)}) == 4


def test_a_failed_install_leaves_nothing_that_is_taken_for_finished(site, install, capsys):
    assert install("a", whole=False) == 1
    assert "blog a: " in capsys.readouterr().err
    assert there(site) == set() and not list(site.venvs.glob("*/.ready"))
    assert install("a") == 0 and greeting(site, "a") == "greeting 1.0"


@pytest.mark.parametrize("damaged", ["artifact", "static"])
def test_an_archive_that_a_power_cut_has_damaged_is_removed_and_so_brought_anew(
    site, make, monkeypatch, capsys, damaged
):
    monkeypatch.setattr(install_release.Install, "make_venv", lambda self, venv: venv.mkdir(parents=True))
    artifact = make("a")
    release = hashlib.sha256(artifact.read_bytes()).hexdigest()[:12]
    artifact = artifact.rename(artifact.with_name(f"key-{release}.tar"))
    static = artifact.with_name(f"{release}-c0ffee.tar.gz")
    with tarfile.open(static, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(".static-d1"))
    monkeypatch.setattr(sys, "argv", ["install-release", "blog", str(artifact), str(static)])
    whole = {"artifact": artifact, "static": static}[damaged]
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert install_release.main() == 1
    assert f"blog {release}: an archive is damaged" in capsys.readouterr().err
    assert not artifact.exists() and not static.exists()
    assert not (site.releases / release / f"static/.release-{release}-c0ffee").exists()


def test_an_install_that_was_killed_is_begun_anew(site, make, install, monkeypatch):
    class Killed(BaseException):
        pass

    finish = install_release.Install.finish

    def killed_at(folder: Path) -> None:
        """Killed when all but the mark of this folder was made."""

        def stand_in(self, finished):
            if finished == folder:
                raise Killed
            finish(self, finished)

        monkeypatch.setattr(install_release.Install, "finish", stand_in)
        with pytest.raises(Killed):
            install("a")

    with tarfile.open(make("a")) as tar:
        wheels = [member for member in tar.getmembers() if member.name.startswith("wheels/")]
        venv = site.venvs / install_release.wheels_digest(tar, wheels)
    killed_at(venv)
    (venv / "bin/greet").write_text("half a script")
    killed_at(site.releases / "a")
    assert "a" not in site.finished()
    monkeypatch.setattr(install_release.Install, "finish", finish)
    assert install("a") == 0 and greeting(site, "a") == "greeting 1.0"
