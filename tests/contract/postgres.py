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


@contextmanager
def cluster() -> Iterator[str]:
    """The folder of the socket; the superuser is postgres, and its databases keep nothing for a crash."""
    if not any(INSTALLED.glob("*/bin")):
        debian.ensure("pg_ctlcluster", "postgresql")
    programs = max(INSTALLED.glob("*/bin"))
    # PostgreSQL does not run as root; pytest's folders are closed to others.
    account = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if account:
        shutil.chown(folder, account["user"])

    def run(program: str, *arguments: str) -> None:
        subprocess.run([programs / program, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL, **account)

    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c shared_buffers=16MB"
    run("initdb", "-D", "data", "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C.UTF-8")
    run("pg_ctl", "-D", "data", "-l", "log", "-w", "-o", options, "start")
    try:
        yield str(folder)
    finally:
        run("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)
