"""On a converged environment, check mode finds nothing to change and nothing to complain of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from conftest import ENV, ROOT, TIERS

from lab.demo import RECAP


def ansible_playbook(*arguments: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", ENV, "-i", "lab", *arguments]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "false"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_check_mode_finds_nothing_to_change():
    done = ansible_playbook("site.yml", "--check", "--diff")
    recap = {m[1]: tuple(map(int, m.groups()[1:])) for m in RECAP.finditer(done.stdout)}
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert set(recap) == set(TIERS)
    changed = {host: counts for host, counts in recap.items() if counts[1]}
    assert not changed, f"{changed}\n{done.stdout[-4000:]}"
