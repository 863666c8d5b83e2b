"""What the packed releases need of the other hosts."""

from __future__ import annotations

import json
import shlex
import tarfile
import time
from pathlib import Path

LIB = "/usr/local/lib/trestle"
# Longer than a visitor has a page open before the browser asks for a file that it names.
STATIC_KEPT_SECONDS = 60 * 60


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


def static_digest(release: dict, told: dict[str, dict]) -> str:
    """Which static files a release has: said by its archive, or by the hosts that have it; "" where nobody knows."""
    if release["static"]:
        with tarfile.open(release["static"]) as tar:
            marks = [tar.extractfile(member).read().decode() for member in tar if member.name.startswith(".release-")]
        return marks[-1]
    sites = [host["sites"].get(release["site"], {}).get("releases", {}) for host in told.values()]
    return next((site[release["id"]]["static"][-1] for site in sites if site.get(release["id"], {}).get("static")), "")


def static_there(result: dict, site: str) -> dict[str, float]:
    """The digests of a site's static files that find met on a media host, and when each came."""
    lines = (line.split(" ", 1) for line in result.get("stdout_lines", []))
    paths = ((Path(path), float(at)) for at, path in lines)
    return {path.name.removeprefix(".static-"): at for path, at in paths if str(path.parent) == static_folder(site)}


def static_missing(releases: list[dict], told: dict[str, dict], results: list[dict]) -> list[dict]:
    """``{host, site, archive, folder}`` for each media host (``results`` of find) without a release's files."""
    digests = {release["site"]: static_digest(release, told) for release in releases}
    return [
        {
            "host": result["item"],
            "site": release["site"],
            "archive": release["static"],
            "folder": static_folder(release["site"]),
        }
        for result in results
        for release in releases
        if release["static"] and digests[release["site"]] not in static_there(result, release["site"])
    ]


def static_stale(releases: list[dict], told: dict[str, dict], results: list[dict], web: list[str]) -> list[dict]:
    """``{host, site, keep, folder}`` for each media host that has static files of a release that nobody has any more.

    None while a web host cannot be asked, or has a release of which it is not known which files it names. Those that
    came lately stay: the release may have been a canary that went back, and its visitors have its pages open.
    """
    stale, lately = [], time.time() - STATIC_KEPT_SECONDS
    for release in releases if told.keys() >= set(web) else []:
        site = release["site"]
        states = [host["sites"].get(site, {}).get("releases", {}) for host in told.values()]
        keep = {static_digest(release, told)}
        keep |= {digest for state in states for one in state.values() for digest in one["static"] or [""]}
        for result in results:
            there = static_there(result, site)
            stay = keep | {digest for digest, at in there.items() if at > lately}
            if "" not in keep and there.keys() - stay:
                stale.append(
                    {"host": result["item"], "site": site, "keep": sorted(stay), "folder": static_folder(site)}
                )
    return stale


def static_changes(releases: list[dict], told: dict[str, dict], results: list[dict], web: list[str]) -> list[dict]:
    """``{host, site, folder, archive, keep}``: both in one step, empty where there is nothing to do."""
    changes = {}
    for one in static_missing(releases, told, results) + static_stale(releases, told, results, web):
        changes.setdefault((one["host"], one["site"]), {"archive": "", "keep": []}).update(one)
    return list(changes.values())


def install_commands(releases: list[dict], kept: int) -> str:
    """For a host's shell, where the artifacts lie; what is only kept there needs none."""
    commands = [
        [f"{LIB}/install-release", f"--keep={kept}", one["site"], Path(one["artifact"]).name, Path(one["static"]).name]
        for one in releases
    ]
    return " && ".join(map(shlex.join, commands)) or "true"


def static_command(change: dict) -> str:
    """For a media host's shell, where the archive lies."""
    unpack = ["--unpack", Path(change["archive"]).name] if change["archive"] else []
    keep = ["--keep", *change["keep"]] if change["keep"] else []
    return shlex.join([f"{LIB}/static-files", change["folder"], *unpack, *keep])


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


def environment_file(release: dict) -> str:
    return f"{release['id']}-{release['configuration']}.environment"


def check_command(release: dict, sites: list[dict], env_name: str) -> str:
    """For the build host's shell, where the artifact and the environment lie. It gives the static files; what is found
    goes to standard error, and what it says there itself only where it fails."""
    site, options = release["site"], json.dumps(check_options(release, sites, env_name))
    environment, static = environment_file(release), f"{release['id']}-{release['configuration']}.tar.gz"
    check = [f"{LIB}/check-release", site, Path(release["artifact"]).name, release["configuration"], options]
    return (
        f"{shlex.join(check)} <{environment} >&2 2>{environment}.errors "
        f"|| {{ status=$?; cat {environment}.errors >&2; exit $status; }}; tar -cf - -C /srv/{site} {static}"
    )


def check_findings(results: list[dict]) -> list[str]:
    """What the runs of check-release said; their errors where they failed."""
    return [f"{result['item']['site']}: {line}" for result in results for line in result["stderr_lines"]]


def check_faults(results: list[dict]) -> list[str]:
    """The last line of each that failed, which is the sentence that says why."""
    return [
        (result["stderr_lines"] or [f"{result['item']['site']}: check-release ended with {result['rc']}."])[-1]
        for result in results
        if result["rc"]
    ]


class FilterModule:
    def filters(self):
        return {
            "to_migrate": to_migrate,
            "install_commands": install_commands,
            "static_changes": static_changes,
            "static_command": static_command,
            "static_folder": static_folder,
            "check_faults": check_faults,
            "check_findings": check_findings,
            "check_command": check_command,
            "environment_file": environment_file,
        }
