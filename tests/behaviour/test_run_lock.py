"""One run at a time: the second is told who runs what, and no run that ends leaves a lock."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ENV, hosts_of
from runs import Reached, ansible_playbook, changes

LOCK = "/var/lib/trestle/run-lock"
LB = sorted(hosts_of("lb"))
DANA = {"id": "1", "owner": "dana@laptop", "since": "2026-11-20T14:02:07Z", "what": "site.yml --tags gunicorn"}
TAKEN = "Refuse to run beside another run"
# Where a run that has the lock begins its work.
WORK = "Pack the sites' sources on the controller"


def locks(host) -> list[str]:
    return [name for name in LB if host(name).run(f"test -e {LOCK}").rc == 0]


@pytest.fixture(autouse=True)
def no_lock(host):
    assert not locks(host), "an earlier run has left its lock"
    yield
    for name in LB:
        host(name).run(f"rm -f {LOCK}")


def test_a_second_run_is_refused_and_an_interrupted_one_leaves_no_lock(host):
    first = Reached(ENV, "playbooks/deploy.yml", task=WORK)
    try:
        assert locks(host) == LB
        second = ansible_playbook(ENV, "site.yml", "--tags", "gunicorn")
        assert second.returncode == 2, second.stdout[-3000:]
        refusal = r"\S+@\S+ has been running playbooks/deploy.yml since 20\S+ \S+ UTC \(lock on \w+\): wait"
        assert re.search(refusal, second.stdout), second.stdout[-3000:]
        assert WORK not in second.stdout and not changes(second.stdout)
        assert locks(host) == LB, "the second has freed what is the first's"
    finally:
        assert first.interrupt() == 99, first.said[-3000:]
    assert not locks(host), first.said[-3000:]


def test_a_run_that_is_refused_by_the_last_load_balancer_frees_the_others_and_one_command_ends_it(host):
    host(LB[-1]).check_output("echo %s > %s", json.dumps(DANA), LOCK)
    refused = ansible_playbook(ENV, "playbooks/deploy.yml")
    assert refused.returncode == 2, refused.stdout[-3000:]
    refusal = f"dana@laptop has been running site.yml --tags gunicorn since 2026-11-20 14:02 UTC (lock on {LB[-1]})"
    assert refusal in " ".join(refused.stdout.split()), refused.stdout[-3000:]
    assert locks(host) == LB[-1:]

    unlocked = ansible_playbook(ENV, "playbooks/unlock.yml")
    assert unlocked.returncode == 0, unlocked.stdout[-3000:]
    said = "dana@laptop has been running site.yml --tags gunicorn since 2026-11-20 14:02 UTC. Its lock is gone."
    assert said in " ".join(unlocked.stdout.split()), unlocked.stdout[-3000:]
    assert not locks(host)


@pytest.fixture
def broken_roll(host):
    """The first web host's program that rolls it fails."""
    web, program = host(hosts_of("web")[0]), "/usr/local/lib/trestle/site-roll"
    web.check_output(f"mv {program} {program}.whole && cp /bin/false {program}")
    yield
    web.check_output(f"mv -f {program}.whole {program}")


def test_a_failed_run_leaves_no_lock(host, broken_roll):
    failed = ansible_playbook(ENV, "playbooks/deploy.yml")
    assert failed.returncode == 2 and TAKEN in failed.stdout, failed.stdout[-3000:]
    assert not locks(host), failed.stdout[-3000:]
