"""A store of artifacts: KEY-ID.tar is what was built for a key, ID-CONFIGURATION.tar.gz its static files.

A release that was chosen earlier is known by its ``id``, any other by its ``key``.
"""

from __future__ import annotations

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


def store_patterns(releases: list[dict]) -> list[str]:
    """What to look for in other stores."""
    wanted = [_artifact(release) for release in releases if not release["artifact"]]
    wanted += [f"{r.get('id') or '*'}-{r['configuration']}.tar.gz" for r in releases if not r["static"]]
    return sorted(set(wanted))


def first_holders(files: dict[str, dict]) -> list[dict]:
    """``{host, path}`` of the first host that has it, for each file of ``files`` (host to the result of find)."""
    holders = {}
    for host, found in files.items():
        for file in found.get("files", []):
            holders.setdefault(Path(file["path"]).name, {"host": host, "path": file["path"]})
    return [holders[name] for name in sorted(holders)]


class FilterModule:
    def filters(self):
        return {"in_store": in_store, "store_patterns": store_patterns, "first_holders": first_holders}
