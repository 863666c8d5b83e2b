"""The container in which a controller builds releases: `python -m tools.build_host NAME` makes or starts it."""

from __future__ import annotations

import sys

import docker

from lab import containers, engine


def ensure(name: str) -> bool:
    """Whether anything had to be done for a container of that name, with today's image, to run."""
    client = engine.ensure(say=lambda text: print(text, file=sys.stderr))
    image = containers.build_image(client, say=lambda text: print(text, file=sys.stderr))
    try:
        container = client.containers.get(name)
    except docker.errors.NotFound:
        container = None
    if container and image not in container.image.tags:
        container.remove(force=True)
        container = None
    if container is None:
        # Not systemd: nothing runs in it but what a build starts.
        client.containers.run(image, ["sleep", "infinity"], name=name, hostname=name, detach=True, init=True)
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
