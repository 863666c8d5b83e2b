"""The run lock of one host: a file that says which run has the environment. Options: ../modules/run_lock.py"""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ansible import context
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plugins import shell

PROC = Path("/proc")
UNLOCK = "ansible-playbook playbooks/unlock.yml"
LOCK = "/var/lib/trestle/run-lock"
# Looking and writing are one step: no other process of the host is between them. The file is always written whole: what
# is none, since the host lost its power, is nobody's.
SCRIPT = """{{ lock={lock} folder={folder}; {make}
[ -d "$folder" ] || exit 0
exec 9<"$folder" && flock 9 || exit 1
held=$(cat "$lock" 2>/dev/null)
case $held in '{{'*'}}') ;; *) held= ;; esac
case $held in {whose}) {then} ;; esac
printf '%s\\n' "$held"
}}"""
TAKE = """new=$(mktemp "$folder/.run-lock.XXXXXX") && printf %s {holder} >"$new" && chmod 644 "$new" && sync "$new" &&
mv -f "$new" "$lock" && held={holder} || exit 1"""
FREE = """rm -f "$lock" || exit 1"""
OPTIONS = {
    "state": {"type": "str", "required": True, "choices": ["held", "free", "read"]},
    "anyone": {"type": "bool", "default": False},
    "id": {"type": "str"},
    "path": {"type": "path", "default": LOCK},
}


class LockError(Exception):
    """Why the file can be neither read nor written, as the host says it."""


def act(
    run: Callable[[str], str],
    path: str,
    state: str,
    ids: list[str] | None = None,
    holder: dict | None = None,
    pretend: bool = False,
) -> tuple[bool, dict]:
    """(changed, who has it; or had it, before it was freed). ``ids`` are the runs whose lock it may be, None is that of
    anybody; ``run`` gives what a command has said on the host."""
    known = [shlex.quote(f'"id": {json.dumps(one)}') for one in ids or []]
    whose = "?*" if ids is None else "|".join(f"*{one}*" for one in known)
    then = "true"
    if not pretend:
        then = {"held": TAKE.format(holder=shlex.quote(json.dumps(holder))), "free": FREE}.get(state, then)
    script = SCRIPT.format(
        lock=shlex.quote(path),
        folder=shlex.quote(os.path.dirname(path)),
        make='mkdir -p -m 755 "$folder" || exit 1' if state == "held" and not pretend else "",
        whose=f"''|{whose}" if state == "held" else whose,
        then=then,
    )
    try:
        found = json.loads(run(script).strip() or "{}")
    except ValueError:
        raise LockError("is damaged: remove it") from None
    theirs = bool(found) and (ids is None or found.get("id") in ids)
    if state == "held":
        taken = found == holder or (pretend and (theirs or not found))
        return taken, holder if taken else found
    return state == "free" and theirs, found


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
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self.host = self._task.delegate_to or task_vars["inventory_hostname"]
        _, self.wanted = self.validate_argument_spec(argument_spec=OPTIONS)
        try:
            return {"held": self.take, "free": self.free, "read": self.read}[self.wanted["state"]]()
        except LockError as error:
            return {"failed": True, "msg": f"{self.wanted['path']}: {error}"}

    def ask(self, state: str, ids: list[str] | None = None, holder: dict | None = None) -> tuple[bool, dict]:
        return act(self.said, self.wanted["path"], state, ids, holder, self._task.check_mode)

    def said(self, command: str) -> str:
        done = self._low_level_execute_command(shell.marked(command), in_data=shell.NO_INPUT)
        if done["rc"]:
            raise LockError(done["stderr"].strip() or shell.said(done["stdout"]).strip() or "cannot be locked")
        return shell.said(done["stdout"])

    def take(self) -> dict:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        me, result = this_run() | {"since": since, "what": command()}, {}
        changed, holder = self.ask("held", [me["id"]], me)
        if not changed and ended(holder):
            whose = f"your run of {holder['what']}, begun {begun(holder)}, which has ended"
            changed, holder = self.ask("held", [me["id"], holder["id"]], me)
            if changed:
                result["warnings"] = [f"Took the run lock on {self.host} over from {whose}."]
        if not changed:
            wait = f"wait, or where that run is dead: {UNLOCK} {options()}"
            return {"failed": True, "msg": f"{told(holder)} (lock on {self.host}): {wait}"}
        freeing = {"state": "free", "path": self.wanted["path"], "id": me["id"]}
        return result | {"changed": True, "holder": holder, "run_lock": {"host": self.host, "free": freeing}}

    def free(self) -> dict:
        ids = None if self.wanted["anyone"] else [self.wanted["id"] or this_run()["id"]]
        changed, holder = self.ask("free", ids)
        msg = f"{told(holder)}." if holder else "There is no lock."
        msg += " Its lock is gone." * changed
        return {"changed": changed, "holder": holder, "msg": msg, "run_lock": {"host": self.host, "free": None}}

    def read(self) -> dict:
        return {"changed": False, "holder": self.ask("read")[1]}
