"""A Docker Engine: found, or installed from Debian's packages and started."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import docker

START_SECONDS = 60
LOG = Path("/var/log/dockerd.log")


class EngineError(Exception):
    """Why there is no engine, in one sentence."""


def connect() -> docker.DockerClient | None:
    """A client of the running engine, or None."""
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except docker.errors.DockerException:
        return None
    return client


def _is_running(program: str) -> bool:
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text().strip() == program and "Z" not in (entry.parent / "stat").read_text().split()[2]:
                return True
        except OSError:
            continue
    return False


def _install(say) -> None:
    say("installing the Docker Engine from Debian's packages")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "docker.io", "iptables"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            raise EngineError(f"Docker could not be installed ({last}): install a Docker Engine and run this again.")


def _start(say) -> None:
    if _is_running("dockerd"):
        return  # starting up, or busy: never a second one beside it
    if Path("/run/systemd/system").is_dir():
        say("starting docker.service")
        subprocess.run(["systemctl", "start", "docker"], check=False)
        return
    say(f"starting dockerd (its log is {LOG})")
    # What an engine that was killed with its machine leaves behind would stop the next one.
    for pid_file in ("/var/run/docker.pid", "/var/run/docker/containerd/containerd.pid"):
        Path(pid_file).unlink(missing_ok=True)
    with LOG.open("ab") as log:
        subprocess.Popen(["dockerd"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)


def ensure(say=print) -> docker.DockerClient:
    """The client of a running engine; installs and starts one where there is none."""
    client = connect()
    if client:
        return client
    if os.geteuid() != 0:
        raise EngineError("No Docker Engine answers here and this is not root: run the command again with sudo.")
    if not shutil.which("dockerd"):
        if not shutil.which("apt-get"):
            raise EngineError("No Docker Engine answers and this is not Debian: install one and run this again.")
        _install(say)
    _start(say)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = connect()
        if client:
            return client
        time.sleep(0.5)
    raise EngineError(f"The Docker Engine did not answer within {START_SECONDS} s: see {LOG} or journalctl -u docker.")
