"""A command on a host without a module: no Python is started there, which takes longer than most commands run."""

from __future__ import annotations

import shlex

# What a login shell may say goes before it.
MARK = "== trestle =="
# For a command that reads nothing: with no input at all ssh would give it a terminal, which spoils what it says.
NO_INPUT = b"\n"


def marked(command: str) -> str:
    return f"echo {shlex.quote(MARK)} && {command}"


def said(stdout: str) -> str:
    """What a marked command itself has said."""
    return stdout.partition(f"{MARK}\n")[2]
