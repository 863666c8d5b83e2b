#!/usr/bin/python
"""The run lock of one host: a file that says which run has the environment, since when."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: run_lock
short_description: One run at a time
description:
  - Takes, frees or reads the file that says which run has the environment. Of two runs exactly one gets it.
  - A run that is refused fails with one sentence that names the holder. A run of the same user on the same controller
    whose process has ended is replaced, with a warning.
options:
  state:
    description: What is wanted of the lock.
    choices: [held, free, read]
    required: true
    type: str
  anyone:
    description: Free the lock whoever holds it; without, only where this run does.
    default: false
    type: bool
  id:
    description: The run whose lock is freed. The action plugin fills in this run's.
    type: str
  holder:
    description: The run that takes the lock. The action plugin fills it in.
    type: dict
  instead_of:
    description: The id of a holder that has ended. The action plugin fills it in.
    type: str
  path:
    description: The file.
    default: /var/lib/trestle/run-lock
    type: path
"""

EXAMPLES = r"""
- name: Refuse to run beside another run
  run_lock:
    state: held
  delegate_to: lb1

- name: Free the lock of a run that is dead
  run_lock:
    state: free
    anyone: true
"""

RETURN = r"""
holder:
  description: Who has the lock after C(held) and C(read), who had it before C(free); empty for nobody.
  returned: always
  type: dict
"""


@contextlib.contextmanager
def alone(folder: str):
    """Looking and writing are one step: no other process of this host is between them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read(path: str) -> dict:
    """The holder. The file is always written whole: one that cannot be read is nobody's."""
    try:
        with open(path) as file:
            holder = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return holder if isinstance(holder, dict) and holder.get("id") else {}


def write(path: str, holder: dict) -> None:
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), prefix=".run-lock.", delete=False) as file:
        json.dump(holder, file)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
    os.replace(file.name, path)


def take(path: str, holder: dict, instead_of: str | None, pretend: bool) -> tuple[bool, dict]:
    """(changed, who has it now)"""
    found = read(path)
    if found and found["id"] not in (holder["id"], instead_of):
        return False, found
    if not pretend:
        write(path, holder)
    return True, holder


def free(path: str, holder_id: str | None, pretend: bool) -> tuple[bool, dict]:
    """(changed, who had it); no id is anyone's."""
    found = read(path)
    if not found or holder_id not in (None, found["id"]):
        return False, found
    if not pretend:
        os.unlink(path)
    return True, found


def act(wanted: dict, pretend: bool) -> tuple[bool, dict]:
    """(changed, holder) of the module's parameters"""
    path, state = wanted["path"], wanted["state"]
    folder = os.path.dirname(path)
    if state == "held" and not pretend:
        os.makedirs(folder, mode=0o755, exist_ok=True)
    if not os.path.isdir(folder):
        return state == "held", wanted["holder"] or {}
    with alone(folder):
        if state == "held":
            return take(path, wanted["holder"], wanted["instead_of"], pretend)
        if state == "free":
            return free(path, None if wanted["anyone"] else wanted["id"], pretend)
        return False, read(path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"required": True, "choices": ["held", "free", "read"]},
            "anyone": {"type": "bool", "default": False},
            "id": {"type": "str"},
            "holder": {"type": "dict"},
            "instead_of": {"type": "str"},
            "path": {"type": "path", "default": "/var/lib/trestle/run-lock"},
        },
        required_if=[("state", "held", ["holder"]), ("state", "free", ["anyone", "id"], True)],
        supports_check_mode=True,
    )
    try:
        changed, holder = act(module.params, module.check_mode)
    except OSError as error:
        module.fail_json(f"{module.params['path']}: {error.strerror}")
    module.exit_json(changed=changed, holder=holder)


if __name__ == "__main__":
    main()
