"""A rolling change: it stops at the first host that fails, finishes when it is run again, and respects an engineer.

Three runs of `--tags gunicorn`, which are for `make test-all`, since `make test` deploys: with another keep-alive time,
broken on the first host; the same again, mended; and without it, which leaves everything as it was.
"""

from __future__ import annotations

import re
import subprocess

import pytest
import test_edge
from conftest import ENV, hosts_of, long
from runs import ansible_playbook
from test_web import health, sites

WEB = hosts_of("web")
SITE = sites()[0]
GUNICORN = f"/srv/{SITE}/current/venv/bin/gunicorn"
CHANGE = ["-e", "gunicorn_keepalive_seconds=76"]
# The failure below is certain at the first answer that does not come: no need to wait long for it.
SHORT = ["-e", "gunicorn_start_seconds=8"]


def run(*options: str) -> subprocess.CompletedProcess:
    return ansible_playbook(ENV, "site.yml", "--tags", "gunicorn", *options, fast=True)


def changed(output: str, name: str) -> int:
    """How many tasks of the recap changed this host."""
    return int(re.search(rf"^{name} .*changed=(\d+)", output, re.MULTILINE).group(1))


def digests(host) -> dict[str, str]:
    return {name: health(host(name), SITE, "live")[1]["digest"] for name in WEB}


def flags(host, name: str) -> list[str]:
    return host(name).check_output("ls /var/lib/trestle/drain").split()


def move(book: str, name: str) -> subprocess.CompletedProcess:
    """playbooks/drain.yml or restore.yml of a host."""
    return ansible_playbook(ENV, f"playbooks/{book}.yml", "--limit", name, fast=True)


def moved(book: str, name: str) -> int:
    """How many tasks of it changed the host."""
    done = move(book, name)
    assert done.returncode == 0, done.stdout[-3000:]
    return changed(done.stdout, name)


@pytest.fixture
def as_it_was(host):
    """Whatever happens in the test, the hosts end as they began."""
    yield
    host(WEB[0]).run(f"[ ! -e {GUNICORN}.whole ] || mv -f {GUNICORN}.whole {GUNICORN}")
    for name in WEB:
        host(name).run("rm -f /var/lib/trestle/drain/manual")
    if any(host(name).run("grep -q 'keepalive = 76' /usr/local/lib/trestle/gunicorn.conf.py").rc == 0 for name in WEB):
        run()


@long
@pytest.mark.skipif(len(WEB) < 2, reason="one web host cannot be rolled one after another")
def test_a_failing_restart_stops_the_run_and_the_same_command_finishes_it(host, as_it_was):
    first, last, before = WEB[0], WEB[-1], digests(host)
    assert not any(flags(host, name) for name in WEB)

    host(first).check_output(f"mv {GUNICORN} {GUNICORN}.whole && cp /bin/false {GUNICORN}")
    broken = run(*CHANGE, *SHORT)
    assert broken.returncode != 0, broken.stdout[-3000:]
    assert "The last of its logs" in broken.stdout, broken.stdout[-3000:]
    assert {name: health(host(name), SITE, "live")[1]["digest"] for name in WEB[1:]} == {
        name: before[name] for name in WEB[1:]
    }, "the other hosts were touched"
    assert flags(host, first) == ["deploy"] and not any(flags(host, name) for name in WEB[1:])

    host(first).check_output(f"mv -f {GUNICORN}.whole {GUNICORN}")
    for name in WEB[1:-1]:
        assert moved("drain", name) == 1
    refused = move("drain", last)
    assert refused.returncode != 0 and re.search(rf"{last}: \w+ is served by no other web host", refused.stdout), (
        refused.stdout
    )
    assert flags(host, last) == []
    for name in WEB[1:-1]:
        assert moved("restore", name) == 1
    if len(WEB) > 2:
        assert moved("drain", last) == moved("restore", last) == moved("drain", last) == 1
        assert test_edge.in_state(host, "drained", last) and moved("drain", last) == 0
    mended = run(*CHANGE)
    assert mended.returncode == 0, mended.stdout[-3000:]
    after = digests(host)
    assert all(after[name] != before[name] for name in WEB), "a host was left behind"
    if len(WEB) > 2:
        assert [flags(host, name) for name in WEB] == [[]] * (len(WEB) - 1) + [["manual"]], (
            "a manual drain survives a run"
        )
        assert health(host(last), SITE, "ready")[0] == 503
        assert moved("restore", last) == 1

    assert test_edge.in_state(host, "up", last) and moved("restore", last) == 0
    back = run()
    assert back.returncode == 0, back.stdout[-3000:]
    assert digests(host) == before
    assert not any(flags(host, name) for name in WEB)
