"""What a release is checked with on the build host, and what is said of it: check-release."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import stat
import subprocess
import tarfile

import programs
import pytest
from environments import ROOT

check_release = programs.load("release", "check-release")
spec = importlib.util.spec_from_file_location("of_release", ROOT / "roles/release/filter_plugins/releases.py")
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)


def test_the_environment_of_a_check_is_the_one_of_this_run_and_nobody_else_s_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(check_release.shutil, "chown", lambda *_, **__: None)
    site = tmp_path / "blog"
    for environment in ("DEBUG=true\nEARLIER=1\n", "DEBUG=false\n"):
        check_release.prepare(site, environment)
        assert (site / "etc/environment").read_text() == environment
    assert [stat.S_IMODE((site / name).stat().st_mode) & 0o007 for name in (".", "etc", "etc/environment")] == [0, 0, 0]


SITES = [
    {
        "name": name,
        "app_type": "django",
        "check_fail_level": "WARNING",
        "silenced_checks": [],
        "makemigrations_check": True,
    }
    | {"after_collectstatic": []}
    for name in ("blog", "shop")
]
CHECK = """#!/bin/sh
test "$(cat)" = THIS=1 && test "$2" = key-one.tar || exit 9
echo "note: slow"
echo "a warning" >&2
{end}
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """check(site, end): the result of a check-release that ends so, run as a build host's shell runs it."""
    monkeypatch.setattr(filters, "LIB", str(tmp_path))
    (tmp_path / "one-c.environment").write_text("THIS=1\n")

    def run(site: str, end: str) -> dict:
        release = {"site": site, "artifact": "/store/key-one.tar", "id": "one", "configuration": "c"}
        (tmp_path / "check-release").write_text(CHECK.format(end=end))
        (tmp_path / "check-release").chmod(0o755)
        (tmp_path / "one-c.tar.gz").write_bytes(b"static")
        command = filters.check_command(release, SITES, "production").replace(f"/srv/{site}", str(tmp_path))
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True)
        with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            assert tar.getnames() == ["one-c.tar.gz"] and done.returncode == 0
        return {"item": release, "rc": done.returncode, "stderr_lines": done.stderr.decode().splitlines()}

    return run


@pytest.mark.parametrize(
    ("ends", "findings", "faults"),
    [
        ({"blog": "exit 0"}, ["blog: note: slow"], []),
        (
            {"blog": "echo 'mend it.' >&2; exit 1"},
            ["blog: note: slow", "blog: a warning", "blog: mend it."],
            ["mend it."],
        ),
        (
            {"blog": "exit 0", "shop": "exit 137"},
            ["blog: note: slow", "shop: note: slow", "shop: a warning"],
            ["a warning"],
        ),
    ],
)
def test_of_a_check_that_failed_its_last_line_is_the_reason(check, ends, findings, faults):
    results = [check(site, end) for site, end in ends.items()]
    assert (filters.check_findings(results), filters.check_faults(results)) == (findings, faults)


def test_a_check_that_ended_without_a_word_is_told_by_its_status():
    results = [{"item": {"site": "shop"}, "rc": 137, "stderr_lines": []}]
    assert filters.check_faults(results) == ["shop: check-release ended with 137."]
