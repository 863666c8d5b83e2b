"""What templates are made of is loaded once.

Ansible starts a process for each host of each task, and each that meets a filter loads the files of all of them.
"""

from __future__ import annotations

from collections import deque

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

DOCUMENTATION = """
name: trestle_filters
type: aggregate
short_description: Loads filters and tests before the processes that use them are started
description:
  - Nothing is loaded anew until a role that is included brings filters of its own.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trestle_filters"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task, is_conditional):
        for loader in (filter_loader, test_loader):
            deque(loader.all(), maxlen=0)
