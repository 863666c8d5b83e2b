"""What a release is checked with on the build host, and what is said of it: check-release."""

from __future__ import annotations

import importlib.util
import stat

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


def result(site: str, rc: int, *errors: str) -> dict:
    return {"item": {"site": site}, "rc": rc, "stdout_lines": ["note: slow"], "stderr_lines": list(errors)}


@pytest.mark.parametrize(
    ("results", "findings", "faults"),
    [
        ([result("blog", 0, "a warning")], ["blog: note: slow"], []),
        ([result("blog", 1, "Traceback", "mend it.")], ["blog: note: slow", "Traceback", "mend it."], ["mend it."]),
        (
            [result("blog", 0), result("shop", 137)],
            ["blog: note: slow", "shop: note: slow"],
            ["shop: check-release ended with 137."],
        ),
    ],
)
def test_of_a_check_that_failed_its_last_line_is_the_reason(results, findings, faults):
    assert (filters.check_findings(results), filters.check_faults(results)) == (findings, faults)
