#!/usr/bin/python
"""Documentation of the action plugin of the same name, which does all with one shell command."""

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
    description: Free the lock whoever holds it; without, only where C(id) does.
    default: false
    type: bool
  id:
    description: The run whose lock is freed; this one by default.
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
