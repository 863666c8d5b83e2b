"""Which release a site is to have, by what was asked for and by what the web hosts remember (site-releases list)."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from ansible.errors import AnsibleFilterError

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = "playbooks/deploy.yml deploys what the inventory names"


def source_digest(site: dict) -> str:
    """Of where a site's code comes from, which a new deploy key does not change."""
    source = {key: value for key, value in site["source"].items() if key != "deploy_key"}
    return hashlib.sha256(json.dumps(source, sort_keys=True, default=str).encode()).hexdigest()[:12]


def origin(site: dict) -> str:
    """What sites share when they are of one source."""
    source = site["source"]
    return str(source.get("git") or source.get("pypi") or (ROOT / source.get("path", "")).resolve())


def has_versions(site: dict) -> bool:
    if "path" not in site["source"]:
        return True
    folder = (ROOT / site["source"]["path"]).resolve()
    return any((parent / ".git").exists() for parent in (folder, *folder.parents))


def sites_meant(sites: list[dict], named: str) -> list[dict]:
    """The sites that -e site=... names, or all of them where they are of one source."""
    known = {site["name"]: site for site in sites}
    names = [name.strip() for name in named.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise AnsibleFilterError(f"There is no site {unknown[0]}: say -e site={next(iter(known))}.")
    if not names and len({origin(site) for site in sites}) > 1:
        raise AnsibleFilterError(f"This could mean {' or '.join(known)}: say which with -e site={next(iter(known))}.")
    return [known[name] for name in names or known]


def versions_wanted(sites: list[dict], version: str, named: str) -> dict[str, str]:
    """``{site: version}`` of -e release_version=..."""
    if not version:
        return {}
    able = [site for site in sites if has_versions(site)]
    return {site["name"]: str(version) for site in sites_meant(sites if named or not able else able, named)}


def releases_told(hosts: list[str], hostvars) -> dict[str, dict]:
    """What site-releases list said in this run (roles/release/tasks/list.yml), of each host that could be asked."""
    answers = {}
    for host in hosts:
        known = hostvars[host]
        if "__release_elsewhere" in known:
            answers |= {result["item"]: result for result in known["__release_elsewhere"].get("results", [])}
        if "__release_here" in known:
            answers[host] = known["__release_here"]
    said = {host: answer.get("stdout", "") for host, answer in answers.items()}
    return {host: json.loads(text) for host, text in said.items() if text.startswith("{")}


def records(told: dict[str, dict], site: str) -> list[dict]:
    """What was current when on the hosts, the oldest first."""
    lines = [line for host in told.values() for line in host["sites"].get(site, {}).get("history", [])]
    return sorted(lines, key=lambda line: line["time"])


def pins(told: dict[str, dict], sites: list[dict], versions: dict, kept: bool, named: str) -> dict[str, dict]:
    """The records of the releases that stay; without ``kept`` those of the sites meant do not."""
    ended = set() if kept else {name.strip() for name in named.split(",")} - {""} or {site["name"] for site in sites}
    found = {}
    for site in sites:
        last = (records(told, site["name"]) or [{}])[-1]
        if site["name"] not in versions.keys() | ended and last.get("pin") == source_digest(site):
            found[site["name"]] = last
    return found


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def named_release(release: str, version: str) -> str:
    return f"{release} ({version})" if version else release


def pins_told(pinned: dict[str, dict]) -> list[str]:
    """A line for each site that stays on the release that was chosen."""
    verbs = {"rollback": "went back to it", "deploy": "deployed it by version"}
    return [
        f"{site} stays on {named_release(pin['id'], pin['version'])}: {pin['by']} {verbs[pin['kind']]} at "
        f"{when(pin['time'])}; {DEPLOY}."
        for site, pin in pinned.items()
    ]


def to_record(releases: list[dict], sites: list[dict], kind: str, by: str, now: float) -> list[dict]:
    """What site-releases is to remember once a host runs the releases."""
    digests = {site["name"]: source_digest(site) for site in sites}
    return [
        {
            "site": release["site"],
            "id": release["id"],
            "version": release["version"],
            "kind": kind,
            "by": by,
            "pin": digests[release["site"]] if release["chosen"] else "",
            "time": int(float(now)),
        }
        for release in releases
    ]


def releases_on(told: dict[str, dict], site: str) -> dict[str, dict]:
    """The site's releases on each host; a host may not have the site yet."""
    return {host: state["sites"].get(site, {}).get("releases", {}) for host, state in told.items()}


def there(told: dict[str, dict], site: str) -> dict[str, dict]:
    """The finished releases of any host: ``{id: {version, configuration, since}}``, the last one current first."""
    found = {}
    for releases in releases_on(told, site).values():
        for release, state in releases.items():
            known = found.setdefault(release, {"version": state["version"], "configuration": "", "since": 0})
            known["configuration"] = (state["configurations"] or [known["configuration"]])[-1]
            known["installed"] = max(state["installed"], known.get("installed", 0))
    for line in records(told, site):
        if line["id"] in found:
            found[line["id"]] |= {"since": line["time"], "version": line["version"] or found[line["id"]]["version"]}
    return dict(sorted(found.items(), key=lambda item: (item[1]["since"], item[1]["installed"]), reverse=True))


def current(told: dict[str, dict], site: str) -> str:
    """What the site runs: what was recorded last, or what a roll has brought since that did not end. One to the release
    before was a rollback, which is not done yet."""
    states = [host["sites"][site] for host in told.values() if site in host["sites"]]
    last = (records(told, site) or [{"id": "", "time": 0}])[-1]
    done = {last["id"], before(told, site, last["id"])}
    brought = [state for state in states if state["switched"] > last["time"] and state["current"] not in done]
    if not brought and last["id"] in there(told, site):
        return last["id"]
    return max(brought or states, key=lambda state: state["switched"], default={"current": ""})["current"]


def before(told: dict[str, dict], site: str, runs: str) -> str:
    """The release to which a rollback goes: the newest other one that was current and is still on a host."""
    finished = there(told, site)
    ids = (line["id"] for line in reversed(records(told, site)))
    return next((release for release in ids if release != runs and release in finished), "")


def rollback(told: dict[str, dict], sites: list[dict], named: str, wanted: str) -> list[dict]:
    """The releases to go back to, as pack_sites tells those that are to be deployed."""
    chosen = []
    for site in sites_meant(sites, named):
        name, finished, runs = site["name"], there(told, site["name"]), current(told, site["name"])
        others = {one: named_release(one, about["version"]) for one, about in finished.items() if one != runs}
        known = f"on the hosts are {', '.join(others.values())}" if others else "there is no other on the hosts"
        release = str(wanted) or before(told, name, runs)
        if not release:
            hint = f": say -e release_id={next(iter(others))}" if others else ""
            raise AnsibleFilterError(f"{name} has run no release before {runs or 'any'}, and {known}{hint}.")
        if release not in finished:
            raise AnsibleFilterError(f"{name} has no release {release}: {known}.")
        chosen.append(
            {
                "site": name,
                "app_type": site["app_type"],
                "id": release,
                "version": finished[release]["version"],
                "configuration": finished[release]["configuration"],
                "from": runs,
                "key": "",
                "chosen": True,
            }
        )
    return chosen


def rollback_problem(told: dict[str, dict], sites: list[dict], named: str, wanted: str) -> str:
    """Why there is nothing to go back to, in one sentence."""
    try:
        chosen = rollback(told, sites, named, wanted)
        files_wanted(told, chosen)
    except AnsibleFilterError as error:
        return str(error.message)
    return ""


def lacking(told: dict[str, dict], release: dict) -> list[str]:
    """The hosts that must install a release."""
    return [
        host
        for host, releases in releases_on(told, release["site"]).items()
        if release["configuration"] not in releases.get(release["id"], {"configurations": []})["configurations"]
    ]


def to_install(releases: list[dict], told: dict[str, dict], host: str) -> list[dict]:
    """The releases that this host lacks; a blank one lacks all."""
    return [release for release in releases if host not in told or host in lacking(told, release)]


def to_copy(releases: list[dict], told: dict[str, dict], host: str) -> list[str]:
    """The artifacts and static files that this host does not keep. install-release removes one that is damaged."""
    kept = told[host]["artifacts"] if host in told else []
    files = dict.fromkeys(release[kind] for kind in ("artifact", "static") for release in releases)
    return [file for file in files if file and Path(file).name not in kept]


def alike(releases: list[dict], told: dict[str, dict], host: str) -> dict[str, str]:
    """For each artifact that this host is to get, that of the release that it runs, where it is known here too: most of
    an artifact are wheels, and these seldom change."""
    if host not in told:
        return {}
    found, lacks = {}, to_copy(releases, told, host)
    for release in releases:
        old = artifact_that_runs(release["site"], told, host, Path(release["artifact"]).parent)
        if old and release["artifact"] in lacks:
            found[release["artifact"]] = str(old)
    return found


def artifact_that_runs(site: str, told: dict[str, dict], host: str, store: Path) -> Path | None:
    """That of the release that a host runs, where the host keeps it and it is known here too."""
    runs = told[host]["sites"].get(site, {}).get("current")
    name = next((name for name in told[host]["artifacts"] if runs and name.endswith(f"-{runs}.tar")), "")
    return store / name if name and (store / name).is_file() else None


def alike_here(site: str, told: dict[str, dict], store: str) -> str:
    """The name of an artifact that is known here, and of which a new one of the site has most: one that a host runs."""
    known = (artifact_that_runs(site, told, host, Path(store)) for host in told)
    return next((old.name for old in known if old), "")


def files_wanted(told: dict[str, dict], releases: list[dict]) -> list[dict]:
    """``{host, file}`` of the artifacts that some host lacks, and of the static files, which a media host may lack."""
    holders = {file: host for host, state in reversed(list(told.items())) for file in state["artifacts"]}
    wanted = {}
    for release in releases:
        static = f"{release['id']}-{release['configuration']}.tar.gz"
        artifact = next((file for file in holders if file.endswith(f"-{release['id']}.tar")), "")
        without = lacking(told, release)
        if without and not (artifact and static in holders):
            raise AnsibleFilterError(f"{without[0]} lacks the release {release['id']}, and no host has its artifact.")
        wanted |= {file: holders[file] for file in [static, *[artifact] * bool(without)] if file in holders}
    return [{"host": host, "file": file} for file, host in wanted.items()]


def holder_of_both(told: dict[str, dict], release: dict, default: str) -> str:
    """A host on which a release can be compared with the one that it replaces."""
    both = {release["id"], release["from"]}
    hosts = (host for host, releases in releases_on(told, release["site"]).items() if both <= releases.keys())
    return next(hosts, default)


def rollback_told(releases: list[dict], compared: list[dict]) -> list[str]:
    """What a rollback is about to do, and leaves in the database. ``compared``: what migrate-release --between said."""
    answers = {one["item"]["site"]: one["stdout"] if one["rc"] == 0 else "" for one in compared}
    lines = []
    for release in releases:
        site = release["site"]
        lines.append(f"{site} goes back from {release['from']} to {named_release(release['id'], release['version'])}.")
        if site not in answers:
            continue
        if not answers[site]:
            lines.append(f"{site}: which migrations came in between cannot be told on any host.")
            continue
        for migration in json.loads(answers[site])["migrations"]:
            lost = "; ".join(migration["irreversible"])
            undone = f"cannot be undone ({lost})" if lost else "can be undone with playbooks/manage.yml"
            lines.append(f"{site}: {migration['name']} came in between and stays in the database; it {undone}.")
    return lines


def releases_table(told: dict[str, dict], sites: list[str], hosts: list[str]) -> list[str]:
    """A line for each site and host: what it runs since when and by whom, and what it can go back to."""
    rows = [("site", "host", "release", "version", "since", "by", "can go back to", "")]
    for site in sites:
        for host in hosts:
            rows.append((site, host, *row_of(told[host], site)) if host in told else (site, host, "does not answer"))
    columns = len(rows[0])
    rows = [row + ("",) * (columns - len(row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def row_of(host: dict, site: str) -> tuple[str, ...]:
    state = " ".join([*["drained"] * bool(host["drained"]), *["canary"] * host["canary"]])
    runs = host["sites"].get(site, {}).get("current", "")
    here = {"": host}
    finished = there(here, site)
    others = [named_release(one, about["version"]) for one, about in finished.items() if one != runs and about["since"]]
    last = next((line for line in reversed(records(here, site)) if line["id"] == runs), None)
    if not last:
        return runs or "none", finished.get(runs, {}).get("version", ""), "", "", ", ".join(others), state
    by = last["by"] + " (rollback)" * (last["kind"] == "rollback") + ", stays" * bool(last["pin"])
    return runs, finished.get(runs, last)["version"], when(last["time"]), by, ", ".join(others), state


class FilterModule:
    def filters(self):
        return {
            "alike": alike,
            "alike_here": alike_here,
            "files_wanted": files_wanted,
            "holder_of_both": holder_of_both,
            "pins": pins,
            "pins_told": pins_told,
            "releases_table": releases_table,
            "releases_told": releases_told,
            "rollback": rollback,
            "rollback_problem": rollback_problem,
            "rollback_told": rollback_told,
            "to_copy": to_copy,
            "to_install": to_install,
            "to_record": to_record,
            "versions_wanted": versions_wanted,
        }
