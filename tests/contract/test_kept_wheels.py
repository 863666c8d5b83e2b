"""Wheels of an earlier build are used again where nothing but code has changed: build-artifact."""

from __future__ import annotations

import io
import json
import os
import tarfile
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
