"""A file of variables that is no YAML stops the run before the first play; Ansible alone would not say which file."""

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
name: trestle_yaml
type: aggregate
short_description: Names the file of group_vars or host_vars that cannot be read
description:
  - Reads every file below group_vars and host_vars of each inventory source when a playbook starts.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trestle_yaml"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        for source in map(Path, context.CLIARGS["inventory"]):
            folder = source if source.is_dir() else source.parent
            for path in sorted([*folder.glob("group_vars/**/*.y*ml"), *folder.glob("host_vars/**/*.y*ml")]):
                with path.open("rb") as file:
                    if not is_encrypted_file(file):
                        read(path)


def read(path: Path) -> None:
    try:
        DataLoader().load_from_file(str(path))
    except AnsibleError as error:
        line = f":{error.obj.line_num}" if error.obj else ""
        sys.exit(f"error: {readable(path)}{line}: {error.message} Correct the file.")
