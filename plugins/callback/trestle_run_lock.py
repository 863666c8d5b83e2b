"""Gives the run lock back where the run ends before its last play does."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

from ansible import context
from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.action import run_lock

DOCUMENTATION = """
name: trestle_run_lock
type: aggregate
short_description: No lock is left by a run that failed or was interrupted
description:
  - Remembers the hosts on which the run holds the lock, and frees what is left when Ansible ends.
  - Nothing can be done where it is killed; the same engineer's next run takes such a lock over.
"""

SECONDS = 90
# What a host is reached and a vault is opened with.
OPTIONS = {
    "--inventory": "inventory",
    "--vault-id": "vault_ids",
    "--vault-password-file": "vault_password_files",
    "--extra-vars": "extra_vars",
    "--user": "remote_user",
    "--private-key": "private_key_file",
    "--connection": "connection",
    "--ssh-common-args": "ssh_common_args",
    "--ssh-extra-args": "ssh_extra_args",
    "--become-password-file": "become_password_file",
    "--connection-password-file": "connection_password_file",
}


def reach() -> list[str]:
    """This run's own options, for another command."""
    given = {option: context.CLIARGS.get(key) or () for option, key in OPTIONS.items()}
    listed = {option: [value] if isinstance(value, str) else value for option, value in given.items()}
    return [f"{option}={value}" for option, values in listed.items() for value in values]


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trestle_run_lock"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        # What frees the lock on each host.
        self.held: dict[str, dict] = {}
        self.pid = os.getpid()
        # An interrupted run has no closing statistics; a failed one has no later plays.
        atexit.register(self.give_back)

    def v2_runner_on_ok(self, result):
        self.v2_runner_item_on_ok(result)

    def v2_runner_item_on_ok(self, result):
        if lock := result.result.get("run_lock"):
            self.held[lock["host"]] = lock["free"]

    def give_back(self):
        held = {host: arguments for host, arguments in self.held.items() if arguments}
        if not held or os.getpid() != self.pid:
            return
        arguments = json.dumps(next(iter(held.values())))
        command = ["adhoc", ",".join(held), "--become", *reach(), "-m", "run_lock", "-a", arguments]
        try:
            # In a session of its own: a second Ctrl-C does not end it.
            code = subprocess.run(
                [sys.executable, "-m", "ansible", *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                start_new_session=True,
                timeout=SECONDS,
            ).returncode
        except (OSError, subprocess.TimeoutExpired):
            code = 1
        if code:
            self._display.warning(
                f"The run lock may be left on {' and '.join(held)}: your next run takes it over; "
                f"for anybody else's: {run_lock.UNLOCK} {run_lock.options()}"
            )
