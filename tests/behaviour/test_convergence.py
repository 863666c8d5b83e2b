"""On a converged environment, check mode finds nothing to change and nothing to complain of."""

from __future__ import annotations

from conftest import ENV, TIERS
from runs import ansible_playbook, changes, recap


def test_check_mode_finds_nothing_to_change():
    done = ansible_playbook(ENV, "site.yml", "--check", "--diff", fast=True)
    hosts = recap(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(hosts) == set(TIERS)
    assert not any(counts["changed"] for counts in hosts.values()), changes(done.stdout)
