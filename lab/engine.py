"""A Docker Engine: found, or installed from Debian's packages and started."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import docker
import psutil

from tools import debian

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
    return any(process.info["name"] == program for process in psutil.process_iter(["name"]))


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
    try:
        debian.ensure("dockerd", "docker.io", "iptables", say=say)
    except debian.InstallError as error:
        raise EngineError(str(error)) from error
    _start(say)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        client = connect()
        if client:
            return client
        time.sleep(0.5)
    raise EngineError(f"The Docker Engine did not answer within {START_SECONDS} s: see {LOG} or journalctl -u docker.")
