"""What the packed releases need of the other hosts."""

from __future__ import annotations

from pathlib import PurePath


def to_migrate(releases: list[dict], sites: list[dict]) -> list[dict]:
    """``{site, release, after, allow}`` of each Django release."""
    named = {site["name"]: site for site in sites}
    return [
        {
            "site": r["site"],
            "release": r["id"],
            "after": named[r["site"]]["after_migrate"],
            "allow": named[r["site"]]["allow_unsafe_migrations"],
        }
        for r in releases
        if r["app_type"] == "django"
    ]


def static_missing(releases: list[dict], results: list[dict]) -> list[dict]:
    """``{host, site, archive, folder}`` for each media host (``results`` of find) without a release's files."""
    missing = []
    for result in results:
        found = {file["path"] for file in result.get("files", [])}
        for release in releases:
            folder = static_folder(release["site"])
            mark = PurePath(release["static"]).name.removesuffix(".tar.gz")
            if f"{folder}/.release-{mark}" not in found:
                missing.append(
                    {"host": result["item"], "site": release["site"], "archive": release["static"], "folder": folder}
                )
    return missing


def static_folder(site: str) -> str:
    return f"/srv/media/{site}/static"


def check_options(release: dict, sites: list[dict], env_name: str) -> dict:
    """What check-release must know of a release's site."""
    site = next(site for site in sites if site["name"] == release["site"])
    return {
        "file": f"inventories/{env_name}/group_vars/all/sites.yml",
        "app_type": site["app_type"],
        "fail_level": site["check_fail_level"],
        "silenced": site["silenced_checks"],
        "makemigrations": site["makemigrations_check"],
        "after_collectstatic": site["after_collectstatic"],
    }


class FilterModule:
    def filters(self):
        return {
            "to_migrate": to_migrate,
            "static_missing": static_missing,
            "static_folder": static_folder,
            "check_options": check_options,
        }
