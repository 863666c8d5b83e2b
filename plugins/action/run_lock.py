"""The controller's part of the run lock: who we are, whether our own holder is dead, what to say."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import platform
import shlex
import time
from pathlib import Path

from ansible import context
from ansible.plugins.action import ActionBase

PROC = Path("/proc")
UNLOCK = "ansible-playbook playbooks/unlock.yml"


def text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def started(pid: int) -> str:
    """When the process began, in ticks since the machine's boot; empty where there is none, or only its remains."""
    state, *fields = text(f"{PROC}/{pid}/stat").rpartition(")")[2].split() or ["Z"]
    return "" if state in "ZX" else fields[18]


def controller() -> dict[str, str]:
    """This machine and user, and this boot of it. A pid means something only in its own namespace."""
    namespace = PROC / "self/ns/pid"
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return {
        "owner": f"{user}@{platform.node()}",
        "machine": f"{text('/etc/machine-id')} {os.readlink(namespace) if namespace.exists() else ''}",
        "boot": text(f"{PROC}/sys/kernel/random/boot_id"),
    }


def this_run() -> dict:
    """The holder that this run is. Ansible's workers are children of the process that is the run."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent else os.getpid()
    run = controller() | {"pid": pid, "started": started(pid)}
    return {"id": ":".join(map(str, run.values()))} | run


def ended(holder: dict) -> bool:
    """Whether it was a run of this user on this machine, and is no more."""
    here = controller()
    if any(holder.get(key) != here[key] for key in ("owner", "machine")):
        return False
    return holder.get("boot") != here["boot"] or started(holder["pid"]) != holder["started"]


def options() -> str:
    """The inventories of this run, as they were named."""
    sources = (os.path.relpath(path) if os.path.exists(path) else path for path in context.CLIARGS["inventory"])
    return shlex.join(word for source in sources for word in ("-i", source))


def command() -> str:
    """What is run and on what; values given with -e may be secret."""
    words = list(context.CLIARGS["args"])
    for option, key in (("--tags", "tags"), ("--skip-tags", "skip_tags")):
        if tags := sorted(set(context.CLIARGS[key]) - {"all"}):
            words += [option, ",".join(tags)]
    if limit := context.CLIARGS["subset"]:
        words += ["--limit", limit]
    return shlex.join(words)


def begun(holder: dict) -> str:
    return holder["since"][:16].replace("T", " ") + " UTC"


def told(holder: dict) -> str:
    """Who has been running what, since when."""
    return f"{holder['owner']} has been running {holder['what']} since {begun(holder)}"


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self.task_vars = task_vars
        self.host = self._task.delegate_to or task_vars["inventory_hostname"]
        return {"held": self.take, "free": self.free}.get(self._task.args.get("state"), self.ask)()

    def ask(self, **arguments) -> dict:
        return self._execute_module(module_args=self._task.args | arguments, task_vars=self.task_vars)

    def freeing(self) -> dict:
        """The arguments that free what this run holds; those that were given go before."""
        return {"id": this_run()["id"]} | self._task.args | {"state": "free"}

    def take(self) -> dict:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        me = this_run() | {"since": since, "what": command()}
        said = self.ask(holder=me)
        other = said.get("holder", me)
        if other["id"] != me["id"] and ended(other):
            said = self.ask(holder=me, instead_of=other["id"])
            if said.get("holder") == me:
                whose = f"your run of {other['what']}, begun {begun(other)}, which has ended"
                said["warnings"] = [f"Took the run lock on {self.host} over from {whose}."]
        if said.get("failed") or said.get("unreachable"):
            return said
        if said["holder"]["id"] != me["id"]:
            wait = f"wait, or where that run is dead: {UNLOCK} {options()}"
            return {"failed": True, "msg": f"{told(said['holder'])} (lock on {self.host}): {wait}"}
        return said | {"run_lock": {"host": self.host, "free": self.freeing()}}

    def free(self) -> dict:
        said = self.ask(**self.freeing())
        if "holder" in said:
            said["msg"] = f"{told(said['holder'])}." if said["holder"] else "There is no lock."
            if said["changed"]:
                said["msg"] += " Its lock is gone."
        return said | {"run_lock": {"host": self.host, "free": None}}
