"""Bring files to a host, run a command there and take files back. Options: ../modules/stream.py"""

from __future__ import annotations

import base64
import io
import os
import shlex
import sys
import tarfile
import time
from pathlib import Path
from typing import BinaryIO

from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# One program of the build host, which is the other end of it.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "roles/build/files/usr/local/lib/trestle"))

from tar_delta import LACKING, PIECES, Delta, delta, made_whole

from plugins import shell

OPTIONS = {
    "cmd": {"type": "str", "required": True},
    "chdir": {"type": "path"},
    "send": {"type": "list", "elements": "path", "default": []},
    "alike": {"type": "dict", "default": {}},
    "contents": {"type": "dict", "default": {}},
    "receive": {"type": "path"},
}
# What is cut short leaves nothing.
TIDY = """new= archive= && trap 'rm -rf "$new" "$archive"' EXIT"""
# Beside the files that it is to replace, so that these are whole at any moment.
INCOMING = (
    """new=$(mktemp -d .incoming.XXXXXX) && tar -x --no-same-owner -C "$new" -f - """
    """&& {join} && mv -f "$new"/* . && rmdir "$new\""""
)
# The status, and the last word, where a file that the host has is not the one that it was taken for.
OTHER, OTHER_WORD = 75, "== another =="
# Ansible takes what a command says for text, and is several times as long over bytes that are none. A pipe would hide
# the command's own status.
OUTGOING = """archive=$(mktemp -p . .outgoing.XXXXXX) && {run} >"$archive" && base64 --wrap=0 "$archive\""""


def packed(files: list[str], contents: dict[str, str] | None = None, deltas: dict[str, Delta] | None = None) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def add(name: str, content: BinaryIO, size: int, mtime: float) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = size, int(mtime), 0o600
            tar.addfile(member, content)

        for file in map(Path, files):
            if deltas and str(file) in deltas:
                one = deltas[str(file)]
                add(one.lacking_name, io.BytesIO(one.lacking), len(one.lacking), file.stat().st_mtime)
                continue
            with file.open("rb") as content:
                add(file.name, content, file.stat().st_size, file.stat().st_mtime)
        for name, text in (contents or {}).items():
            add(name, io.BytesIO(text.encode()), len(text.encode()), time.time())
    return archive.getvalue()


def unpacked(archive: str, folder: Path) -> list[str]:
    """The names of the files that are in the folder now."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(archive))) as tar:
        files = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
    for name in [name.removesuffix(PIECES) for name in files if name.endswith(PIECES)]:
        files[name] = made_whole(files.pop(f"{name}{PIECES}"), files.pop(f"{name}{LACKING}"), folder)
    for name, content in files.items():
        unfinished = folder / f".{name}.{os.getpid()}"
        unfinished.write_bytes(content)
        unfinished.replace(folder / name)
    return list(files)


def command(cmd: str, chdir: str | None, sends: bool, receives: bool, deltas: list[Delta]) -> str:
    # Braces: the command may have parts of its own that end in a semicolon or an "or".
    run = f"{{ {cmd}\n}}"
    change = [f"cd {shlex.quote(chdir)}"] if chdir else []
    other = f"{{ echo {shlex.quote(OTHER_WORD)}; exit {OTHER}; }}"
    join = " && ".join(f"""{{ {{ {one.join('"$new"')}; }} || {other}; }}""" for one in deltas) or "true"
    last = OUTGOING.format(run=run) if receives else run
    incoming = [INCOMING.format(join=join)] * sends
    return shell.marked(" && ".join([TIDY, *change, *incoming, last]))


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, wanted = self.validate_argument_spec(argument_spec=OPTIONS)
        if self._task.check_mode:
            return {"changed": True}
        deltas = {new: one for new, old in wanted["alike"].items() if (one := delta(Path(new), Path(old)))}
        done, stdout = self.done(wanted, deltas)
        if done["rc"] == OTHER and stdout.strip() == OTHER_WORD:
            done, stdout = self.done(wanted, {})
        result = {"changed": True, "rc": done["rc"], "stderr": done["stderr"], "stderr_lines": done["stderr_lines"]}
        if done["rc"]:
            result |= {"failed": True, "msg": "non-zero return code"}
        elif wanted["receive"]:
            return result | {"received": unpacked(stdout, Path(wanted["receive"]))}
        return result | {"stdout": stdout, "stdout_lines": stdout.splitlines()}

    def done(self, wanted: dict, deltas: dict[str, Delta]) -> tuple[dict, str]:
        """What the command did, and what it said."""
        sends, receives = bool(wanted["send"] or wanted["contents"]), bool(wanted["receive"])
        done = self._low_level_execute_command(
            command(wanted["cmd"], wanted["chdir"], sends, receives, list(deltas.values())),
            in_data=packed(wanted["send"], wanted["contents"], deltas) if sends else shell.NO_INPUT,
        )
        return done, shell.said(done["stdout"])
