"""Programs of the controller that Debian packages."""

from __future__ import annotations

import os
import shutil
import subprocess


class InstallError(Exception):
    """Why a program could not be had, in one sentence."""


def ensure(program: str, *packages: str, say=print) -> str:
    """The path of ``program``; installs ``packages`` (by default of its name) where it is missing."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path:
        return path
    wanted = packages or (program,)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise InstallError(f"{program} is missing: install it, or run the command again as root on Debian.")
    say(f"installing {', '.join(wanted)} from Debian's packages")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *wanted]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise InstallError(f"{program} could not be installed from Debian's packages ({last}): check the network.")
    return shutil.which(program) or program
