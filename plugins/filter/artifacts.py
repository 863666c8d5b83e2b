"""A store of artifacts: KEY-ID.tar is what was built for a key, ID-CONFIGURATION.tar.gz its static files.

A release that was chosen earlier is known by its ``id``, any other by its ``key``.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path


def in_store(releases: list[dict], store: str) -> list[dict]:
    """The releases with ``id``, ``artifact`` and ``static``; empty strings for what the store does not have."""
    return [release | _found(release, Path(store)) for release in releases]


def _found(release: dict, store: Path) -> dict[str, str]:
    artifact = next((str(path) for path in sorted(store.glob(_artifact(release)))), "")
    release_id = release.get("id") or Path(artifact).stem.rpartition("-")[2]
    static = store / f"{release_id}-{release['configuration']}.tar.gz"
    return {
        "id": release_id,
        "artifact": artifact,
        "static": str(static) if release_id and static.is_file() else "",
        "folder": f"/srv/{release['site']}/releases/{release_id}",
    }


def _artifact(release: dict) -> str:
    return f"*-{release['id']}.tar" if release.get("id") else f"{release['key']}-*.tar"


def is_whole(releases: list[dict]) -> bool:
    """Whether the store has everything of them."""
    return all(release["artifact"] and release["static"] for release in releases)


def first_holders(told: dict[str, dict], releases: list[dict]) -> list[dict]:
    """``{host, file}`` of what the store lacks of the releases, of the first host that has it."""
    holders = {file: host for host, state in reversed(list(told.items())) for file in state["artifacts"]}
    found = {}
    for release in releases:
        artifact = Path(release["artifact"]).name or next(iter(fnmatch.filter(sorted(holders), _artifact(release))), "")
        static = f"{Path(artifact).stem.rpartition('-')[2]}-{release['configuration']}.tar.gz"
        lacking = [artifact] * (not release["artifact"]) + [static] * (not release["static"])
        found |= {file: holders[file] for file in lacking if file in holders}
    return [{"host": host, "file": file} for file, host in sorted(found.items())]


class FilterModule:
    def filters(self):
        return {"in_store": in_store, "is_whole": is_whole, "first_holders": first_holders}
