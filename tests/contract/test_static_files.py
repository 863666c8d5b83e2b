"""Static files: packed with marks, shipped where they are not yet, removed with the last release that names them."""

from __future__ import annotations

import grp
import importlib.util
import os
import shutil
import tarfile
import time
from pathlib import Path

import programs
import pytest
from environments import ROOT

check_release = programs.load("release", "check-release")
static_files = programs.load("media", "static-files")
# Whoever runs the tests is in it.
GROUP = grp.getgrgid(os.getgid()).gr_name
spec = importlib.util.spec_from_file_location("of_release", ROOT / "roles/release/filter_plugins/releases.py")
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)


@pytest.fixture
def packed(tmp_path):
    """packed(id, **contents): the archive of a release's static files."""

    def run(release: str, **files: str) -> Path:
        folder = tmp_path / f"collected-{release}"
        (folder / "css").mkdir(parents=True)
        for name, content in files.items():
            (folder / "css" / f"{name}.css").write_text(content)
        archive = tmp_path / f"{release}-c0ffee.tar.gz"
        check_release.pack(folder, archive)
        return archive

    return run


class Media:
    """A media host's folder of one site, and what find says of it."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    def ship(self, archive: Path) -> None:
        copy = shutil.copy(archive, f"{self.folder}.tar.gz")
        static_files.unpack(Path(copy), self.folder, GROUP)
        assert not Path(copy).exists()

    def found(self, name: str = "media1", age: float = 2 * 60 * 60) -> dict:
        marks = [mark.name for mark in self.folder.glob(".static-*")]
        return {"item": name, "stdout_lines": [of_find(f"/srv/media/blog/static/{mark}", age) for mark in marks]}

    def files(self) -> set[str]:
        return {path.name for path in self.folder.rglob("*.css")}


@pytest.fixture
def media(tmp_path):
    return Media(tmp_path / "media")


def of_find(path: str, age: float = 0) -> str:
    return f"{time.time() - age:.10f} {path}"


def release(archive: Path | str, name: str) -> dict:
    return {"site": "blog", "id": name, "static": str(archive)}


def told(**digests: list[str]) -> dict:
    """One web host with these releases."""
    return {"web1": {"sites": {"blog": {"releases": {name: {"static": found} for name, found in digests.items()}}}}}


def digest(archive: Path) -> str:
    return filters.static_digest(release(archive, ""), {})


def test_the_same_files_have_the_same_digest_and_the_mark_comes_last(packed):
    first, second, other = packed("a", x="1"), packed("b", x="1"), packed("c", x="2")
    assert digest(first) == digest(second) != digest(other)
    with tarfile.open(first) as tar:
        names = tar.getnames()
    assert names[-2:] == [f".static-{digest(first)}", ".release-a-c0ffee"] and "css/x.css" in names


def test_what_a_media_host_has_is_not_shipped_again(packed, media):
    first, same, other = packed("a", x="1"), packed("b", x="1"), packed("c", x="2")
    missing = filters.static_missing([release(first, "a")], {}, [media.found()])
    assert missing == [
        {"host": "media1", "site": "blog", "archive": str(first), "folder": "/srv/media/blog/static"},
    ]
    media.ship(first)
    assert not filters.static_missing([release(same, "b")], {}, [media.found()])
    assert filters.static_missing([release(other, "c")], {}, [media.found()])
    another_site = {"item": "media1", "stdout_lines": [of_find(f"/srv/media/shop/static/.static-{digest(first)}")]}
    assert filters.static_missing([release(first, "a")], {}, [another_site]), "another site's are not this one's"


def test_files_go_with_the_last_release_that_names_them(packed, media):
    archives = {"a": packed("a", shared="s", old="1"), "b": packed("b", shared="s", new="2")}
    for archive in archives.values():
        media.ship(archive)
    digests = {name: digest(archive) for name, archive in archives.items()}
    deployed = [release(archives["b"], "b")]
    both = told(**{name: [found] for name, found in digests.items()})
    assert not filters.static_stale(deployed, both, [media.found()], ["web1"])
    (stale,) = filters.static_stale(deployed, told(b=[digests["b"]]), [media.found()], ["web1"])
    assert stale["keep"] == [digests["b"]] and stale["host"] == "media1"
    assert static_files.prune(media.folder, stale["keep"]) > 0
    assert media.files() == {"shared.css", "new.css"}
    assert not filters.static_stale(deployed, told(b=[digests["b"]]), [media.found()], ["web1"])
    assert static_files.prune(media.folder, stale["keep"]) == 0, "what stays, stays"


def test_what_came_lately_stays_for_the_visitors_of_a_canary_that_went_back(packed, media):
    archives = [packed("a", old="1"), packed("b", bad="1"), packed("c", new="1")]
    for archive in archives:
        media.ship(archive)
    bad, new = digest(archives[1]), digest(archives[2])
    deployed, known = [release(archives[2], "c")], told(c=[new])
    (stale,) = filters.static_stale(deployed, known, [media.found()], ["web1"])
    assert stale["keep"] == [new]
    found = media.found()
    lines = found["stdout_lines"]
    lines[:] = [of_find(line.split()[1], 60) if line.endswith(bad) else line for line in lines]
    (stale,) = filters.static_stale(deployed, known, [found], ["web1"])
    assert stale["keep"] == sorted([bad, new])
    assert not filters.static_stale(deployed, known, [media.found(age=60)], ["web1"])


def test_nothing_is_removed_while_it_is_not_known_what_may_run(packed, media):
    first, second = packed("a", x="1"), packed("b", x="2")
    media.ship(first)
    deployed, known = [release(second, "b")], told(b=[digest(second)])
    assert filters.static_stale(deployed, known, [media.found()], ["web1"])
    assert not filters.static_stale(deployed, known, [media.found()], ["web1", "web2"]), "web2 is down"
    assert not filters.static_stale(deployed, told(old=[]), [media.found()], ["web1"]), "of an earlier kind"
    assert not filters.static_stale(deployed, told(old=[""]), [media.found()], ["web1"])


def test_a_release_that_was_not_fetched_is_known_by_what_the_hosts_say(packed, media):
    media.ship(packed("a", x="1"))
    (mark,) = media.folder.glob(".static-*")
    there = told(a=[mark.name.removeprefix(".static-")])
    assert not filters.static_missing([release("", "a")], there, [media.found()])
    assert not filters.static_stale([release("", "a")], there, [media.found()], ["web1"])


def test_what_comes_and_what_goes_is_one_step_for_each_media_host(packed, media, tmp_path, monkeypatch):
    first, second = packed("a", x="1"), packed("b", x="2")
    media.ship(first)
    deployed, known = [release(second, "b")], told(a=[digest(first)])
    has_both = media.found("media2")
    has_both["stdout_lines"] += [of_find(f"/srv/media/blog/static/.static-{digest(second)}")]
    blank = {"item": "media3", "stdout_lines": []}

    def changes(known: dict) -> dict[str, tuple[bool, list[str]]]:
        found = filters.static_changes(deployed, known, [media.found(), has_both, blank], ["web1"])
        return {one["host"]: (bool(one["archive"]), one["keep"]) for one in found}

    assert changes(known) == {"media1": (True, []), "media3": (True, [])}, "the release before can still run"
    gone = [digest(second)]
    assert changes(told(b=gone)) == {"media1": (True, gone), "media2": (False, gone), "media3": (True, [])}

    archive = Path(shutil.copy(second, tmp_path / "media.tar.gz"))
    monkeypatch.setattr(static_files, "unpack", lambda *paths, unpack=static_files.unpack: unpack(*paths, GROUP))
    monkeypatch.setattr("sys.argv", ["static-files", str(media.folder), "--unpack", str(archive), "--keep", *gone])
    static_files.main()
    assert (media.folder / "css/x.css").read_text() == "2" and len(media.found()["stdout_lines"]) == 1


def test_an_empty_folder_goes_with_its_files(media):
    (media.folder / "a/b").mkdir(parents=True)
    (media.folder / "a/b/x.css").touch()
    (media.folder / "y.css").touch()
    (media.folder / ".static-d").write_text("y.css\n")
    assert static_files.prune(media.folder, ["d", "of-another-host"]) == 1
    assert sorted(os.listdir(media.folder)) == [".static-d", "y.css"]


def test_what_is_served_is_never_unreadable_or_cut_short(packed, media, monkeypatch):
    """A file that stays is not touched; another one is whole when it takes the name."""
    media.ship(packed("a", same="same", other="one"))
    before = {path.name: path.stat() for path in media.folder.rglob("*.css")}
    (media.folder / "css/same.css").chmod(0o600)
    given = {}
    monkeypatch.setattr(
        static_files.os, "replace", lambda new, name: (given.update({name.name: new.stat()}), os.rename(new, name))
    )
    media.ship(packed("b", same="same", other="another", new="new"))
    after = {path.name: path for path in media.folder.rglob("*.css")}
    same = after["same.css"].stat()
    assert (same.st_ino, same.st_mode) == (before["same.css"].st_ino, before["same.css"].st_mode)
    assert after["other.css"].read_text() == "another"
    assert {"other.css", "new.css"} < set(given) and "same.css" not in given
    for name in ("other.css", "new.css"):
        assert (oct(given[name].st_mode), given[name].st_size) == ("0o100640", after[name].stat().st_size)
    assert oct((media.folder / "css").stat().st_mode) == "0o40750"
    assert not (media.folder / ".unfinished").exists()


def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path, media):
    archive = tmp_path / "bad.tar.gz"
    (tmp_path / "x").write_text("x")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "x", "../x.css")
    with pytest.raises(SystemExit, match="outside"):
        static_files.unpack(archive, media.folder, GROUP)
