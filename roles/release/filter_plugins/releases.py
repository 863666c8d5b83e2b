"""What the packed releases need of the other hosts."""

from __future__ import annotations


def to_migrate(releases: list[dict], sites: list[dict]) -> list[dict]:
    """``{site, release, after}`` of each Django release."""
    after = {site["name"]: site["after_migrate"] for site in sites}
    return [
        {"site": r["site"], "release": r["id"], "after": after[r["site"]]}
        for r in releases
        if r["app_type"] == "django"
    ]


def static_missing(releases: list[dict], results: list[dict]) -> list[dict]:
    """``{host, site, id, static}`` for each media host (``results`` of find) without a release's files."""
    missing = []
    for result in results:
        found = {file["path"] for file in result.get("files", [])}
        for r in releases:
            if r["app_type"] == "django" and f"{r['static']}/.release-{r['id']}" not in found:
                missing.append({"host": result["item"], "site": r["site"], "id": r["id"], "static": r["static"]})
    return missing


class FilterModule:
    def filters(self):
        return {"to_migrate": to_migrate, "static_missing": static_missing}
