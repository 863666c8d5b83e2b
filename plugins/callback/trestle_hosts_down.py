"""Names the hosts that did not answer, and ends the run with a status of its own."""

from __future__ import annotations

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: trestle_hosts_down
type: aggregate
short_description: The closing sentence and exit status of a run in which hosts did not answer
description:
  - A host that does not answer stops nothing. At the end the run names it and exits with 3 where everything else
    succeeded, with 2 where anything failed or the run was cut short.
  - Ansible's own status for unreachable hosts, 4, is also that of a file it cannot read, and hides failures.
"""

FAILED, DOWN = 2, 3


def listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trestle_hosts_down"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        self.awaited = playbook.get_plays()[-1].get_name()
        self.complete = self.stood_in = False

    def v2_playbook_on_play_start(self, play):
        # A play whose last host goes away ends the run before the later ones begin.
        self.complete = play.get_name() == self.awaited

    def v2_runner_on_unreachable(self, result):
        # Where a host was to act for others its absence fails them all, and no figure says so.
        task = result.task
        self.stood_in |= bool((task.run_once or task.delegate_to) and not task.ignore_unreachable)

    def v2_playbook_on_stats(self, stats):
        if not stats.dark:
            return
        names, many = listed(sorted(stats.dark)), len(stats.dark) > 1
        if stats.failures or self.stood_in or not self.complete:
            self._display.error(f"{names} did not answer, and the run did not succeed on the others: see above.")
            raise SystemExit(FAILED)
        self._display.warning(
            f"{names} did not answer and {'were' if many else 'was'} left alone; every other host is as wanted. "
            f"Run the same command again when {'they are' if many else 'it is'} back."
        )
        # Ansible has no other way for a plugin to choose the status.
        raise SystemExit(DOWN)
