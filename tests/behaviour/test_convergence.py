"""On a converged environment neither a second run nor check mode finds anything to change, or to complain of."""

from __future__ import annotations

import pytest
from conftest import ENV, TIERS
from runs import ansible_playbook, changes, recap


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["second run", "check mode"])
def test_nothing_is_left_to_change(options):
    done = ansible_playbook(ENV, "site.yml", "--diff", *options, fast=True)
    hosts = recap(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(hosts) == set(TIERS)
    assert not any(counts["changed"] for counts in hosts.values()), changes(done.stdout)
