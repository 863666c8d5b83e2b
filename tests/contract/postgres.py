"""A PostgreSQL of the tests' own: a cluster in a folder, reached through its socket, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import debian

INSTALLED = Path("/usr/lib/postgresql")


def account() -> dict:
    """PostgreSQL does not run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def run(folder: str, program: str, *arguments: str) -> None:
    command = [max(INSTALLED.glob("*/bin")) / program, "-D", "data", *arguments]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **account())


def start(folder: str) -> None:
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
    run(folder, "pg_ctl", "-l", "log", "-w", "-o", options, "start")


def stop(folder: str) -> None:
    """At once, with whatever is connected."""
    run(folder, "pg_ctl", "-m", "immediate", "-w", "stop")


@contextmanager
def cluster() -> Iterator[str]:
    """The folder of the socket; the superuser is postgres, and its databases keep nothing for a crash."""
    if not any(INSTALLED.glob("*/bin")):
        debian.ensure("pg_ctlcluster", "postgresql")
    # pytest's folders are closed to others.
    folder = tempfile.mkdtemp(prefix="postgres-")
    if account():
        shutil.chown(folder, account()["user"])
    run(folder, "initdb", "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C.UTF-8")
    start(folder)
    try:
        yield folder
    finally:
        stop(folder)
        shutil.rmtree(folder)
