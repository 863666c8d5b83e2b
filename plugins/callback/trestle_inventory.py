"""An inventory with no host, or with a file that is no YAML, stops the run before the first task.

Ansible alone ends well where there is no host, and does not say which file of variables it could not read.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ansible import context
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import is_encrypted_file
from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins.preflight.inventory import readable

DOCUMENTATION = """
name: trestle_inventory
type: aggregate
short_description: Refuses an inventory that has no host or cannot be read
description:
  - Reads every file below group_vars and host_vars of each inventory source when a playbook starts.
  - Refuses a playbook whose first play has no host.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trestle_inventory"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.plays = 0

    def v2_playbook_on_start(self, playbook):
        for source in map(Path, context.CLIARGS["inventory"]):
            folder = source if source.is_dir() else source.parent
            for path in sorted([*folder.glob("group_vars/**/*.y*ml"), *folder.glob("host_vars/**/*.y*ml")]):
                with path.open("rb") as file:
                    if not is_encrypted_file(file):
                        read(path)

    def v2_playbook_on_play_start(self, play):
        self.plays += 1

    def v2_playbook_on_no_hosts_matched(self):
        # A later play may well have none: --limit.
        if self.plays == 1:
            sources = ", ".join(map(readable, context.CLIARGS["inventory"]))
            sys.exit(f"error: {sources}: no host of this inventory is in the first play: name hosts in its hosts.yml.")


def read(path: Path) -> None:
    try:
        DataLoader().load_from_file(str(path))
    except AnsibleError as error:
        line = f":{error.obj.line_num}" if error.obj else ""
        sys.exit(f"error: {readable(path)}{line}: {error.message} Correct the file.")
