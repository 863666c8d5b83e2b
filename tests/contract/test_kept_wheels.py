"""Wheels of an earlier build are used again where nothing but code has changed: build-artifact."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from pathlib import Path

import programs
import pytest

builder = programs.load("build", "build-artifact")
JOB = {
    "site": "blog",
    "version": "v1",
    "requirement": "",
    "app_type": "django",
    "dependency_file": "",
    "extras": [],
    "python_packages": [],
    "build_packages": [],
    "system_packages": [],
    "node": {},
    "index_url": "",
    "extra_index_urls": [],
    "default_packages": ["gunicorn"],
    "tools": {},
}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """build({file: text}, **keys of the job): the id, and what pip was asked for."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / "job").mkdir()

    def run(files: dict[str, str], **keys) -> tuple[str, list]:
        asked = []

        def wheel(self, *what: str, where=None) -> None:
            asked.append(what)
            (self.wheels / f"{len(asked)}-1-py3-none-any.whl").write_text(" ".join(what))

        monkeypatch.setattr(builder.Build, "wheel", wheel)
        (tmp_path / "job/job.json").write_text(json.dumps(JOB | keys))
        with tarfile.open(tmp_path / "job/source.tar", "w") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
        made = builder.Build(tmp_path / "job")
        made.unpack()
        made.collect_wheels()
        return made.artifact(), asked

    return run


@pytest.fixture
def give(tmp_path, monkeypatch):
    """give(**keys of the job): one that is there to be built with ``builder.main()``."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(builder.Build, "wheel", lambda self, *what, where=None: None)
    monkeypatch.setattr("sys.argv", ["build-artifact", str(tmp_path / "key.tar")])
    (tmp_path / "artifacts").mkdir()

    def run(**keys) -> None:
        with tarfile.open(tmp_path / "source.tar", "w") as source:
            builder.add_bytes(source, "requirements.txt", b"django\n")
        with tarfile.open(tmp_path / "key.tar", "w") as archive:
            builder.add_bytes(archive, "job.json", json.dumps(JOB | keys).encode())
            archive.add(tmp_path / "source.tar", "source.tar")

    return run


@pytest.mark.parametrize("file", ["requirements.txt", "nothing.txt"])
def test_what_a_job_leaves_is_its_artifact_for_a_day_and_never_its_password(tmp_path, give, capsys, file):
    for name, age in (("yesterday", 25), ("today", 1)):
        (tmp_path / "artifacts" / name).touch()
        os.utime(tmp_path / "artifacts" / name, (time.time() - age * 3600,) * 2)
    (tmp_path / "untaken.tar").touch()
    os.utime(tmp_path / "untaken.tar", (1, 1))
    give(dependency_file=file, index_url="https://me:hunter2@packages.example.com")
    failed, said = builder.main(), capsys.readouterr().out
    artifacts = {path.name for path in (tmp_path / "artifacts").iterdir()}
    assert artifacts == {"today"} | (set() if failed else {said.strip()})
    assert bool(failed) == (file == "nothing.txt")
    assert not any((tmp_path / left).exists() for left in ("key.tar", "untaken.tar", "job"))


def test_a_build_that_a_killed_run_left_at_work_does_not_harm_the_next_one(tmp_path, give, monkeypatch, capsys):
    """The next run gives the same job while that one is at work, which ends after it."""
    give()
    second = threading.Thread(target=lambda: done.append(builder.main()), daemon=True)
    done, node = [], builder.Build.node

    def slow(self):
        monkeypatch.setattr(builder.Build, "node", node)
        give()
        second.start()
        time.sleep(0.3)
        assert not done and (self.project / "requirements.txt").exists()

    monkeypatch.setattr(builder.Build, "node", slow)
    assert builder.main() == 0
    second.join(10)
    assert done == [0]
    assert len(set(capsys.readouterr().out.splitlines())) == len(list((tmp_path / "artifacts").iterdir())) == 1


def test_code_alone_asks_no_index_and_has_the_same_wheels(build, tmp_path):
    first, asked = build({"requirements.txt": "django==5.2\n", "a.py": "1"})
    assert asked
    second, asked = build({"requirements.txt": "django==5.2\n", "a.py": "2"}, version="v2", site="other")
    assert not asked and second != first
    assert build({"requirements.txt": "django==5.2\n", "a.py": "1"})[0] == first
    with tarfile.open(tmp_path / "job/artifact.tar") as tar:
        assert "wheels/1-1-py3-none-any.whl" in tar.getnames()


@pytest.mark.parametrize(
    ("files", "keys"),
    [
        ({"requirements.txt": "django==5.1\n"}, {}),
        ({"requirements.txt": "django==5.2\n"}, {"default_packages": ["gunicorn==2"]}),
        ({"requirements.txt": "django==5.2\n"}, {"python_packages": ["celery"]}),
        ({"requirements.txt": "django==5.2\n"}, {"index_url": "https://index.example.com"}),
        ({}, {"requirement": "blog==1.0"}),
    ],
)
def test_what_decides_over_wheels_asks_again(build, files, keys):
    build({"requirements.txt": "django==5.2\n"})
    assert build(files, **keys)[1]
    assert not build(files, **keys)[1]


@pytest.mark.parametrize(
    "text",
    ["-r base.txt\n", "--pre\n", "./lib\n", "blog @ file:lib\n", "blog @ git+https://example.com/blog\n"],
)
def test_a_file_that_refers_to_something_else_is_read_anew(build, text):
    files = {"requirements.txt": f"django==5.2\n{text}"}
    assert build(files)[1] and build(files)[1]


def test_hashes_refer_to_nothing_else(build):
    files = {"requirements.txt": "django==5.2 \\\n    --hash=sha256:0123\n"}
    assert build(files)[1] and not build(files)[1]


def test_wheels_are_kept_for_a_day(build, tmp_path):
    files = {"requirements.txt": "django\n"}
    build(files)
    (kept,) = (tmp_path / "wheels").iterdir()
    os.utime(kept, (1, 1))
    assert build(files)[1], "an index may have a newer one"


def test_a_project_that_is_a_package_is_built_each_time(build):
    files = {"pyproject.toml": "[project]\nname = 'blog'\nversion = '1'\n", "src/blog/__init__.py": ""}
    assert build(files)[1] and build(files)[1]
