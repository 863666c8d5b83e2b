"""The container in which a controller builds releases: `python -m tools.build_host NAME` makes or starts it."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path

import docker
import yaml

from lab import containers, engine

DEFAULTS = Path(__file__).resolve().parents[1] / "roles/build/defaults/main.yml"


def say(text: str) -> None:
    print(text, file=sys.stderr)


def image(client: docker.DockerClient) -> str:
    """A lab host with what every build needs, so that only the first build of a machine waits for that."""
    packages = " ".join(yaml.safe_load(DEFAULTS.read_text())["build_debian_packages"])
    dockerfile = f"""FROM {containers.build_image(client, say)}
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends {packages}
"""
    tag = "trestle-build:" + hashlib.sha256(dockerfile.encode()).hexdigest()[:12]
    if not client.images.list(name=tag):
        try:
            client.images.build(fileobj=io.BytesIO(dockerfile.encode()), tag=tag, rm=True)
        except docker.errors.BuildError as error:
            raise containers.LabError(f"The build container's image could not be made: {error.msg}") from error
    return tag


def ensure(name: str) -> bool:
    """Whether anything had to be done for a container of that name, with today's image, to run."""
    client = engine.ensure(say)
    tag = image(client)
    try:
        container = client.containers.get(name)
    except docker.errors.NotFound:
        container = None
    if container and (tag not in container.image.tags or container.status in containers.HALF_REMOVED):
        container.remove(force=True)
        container = None
    if container is None:
        # Not systemd: nothing runs in it but what a build starts.
        client.containers.run(tag, ["sleep", "infinity"], name=name, hostname="build", detach=True, init=True)
    elif container.status == "running":
        return False
    else:
        container.start()
    return True


if __name__ == "__main__":
    try:
        if ensure(sys.argv[1]):
            print(f"started the container {sys.argv[1]}")
    except (engine.EngineError, containers.LabError) as error:
        raise SystemExit(f"{error} Or name a build host: the group build in the inventory's hosts.yml.") from error
