"""What is wrong with an inventory, one sentence each: the variable, the file and the remedy."""

from __future__ import annotations

import difflib
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from plugins.filter.trestle import complete_sites  # noqa: E402

TIERS = ("lb", "web", "db", "cache", "media", "monitor")
SITE_REQUIRED = ("source", "domains")
# What complete_sites derives from a site's name; an entry may set it all the same.
SITE_DERIVED = (
    "user",
    "root",
    "port",
    "wsgi_module",
    "settings_module",
    "database",
    "database_user",
    "database_password",
    "secret_key",
    "cache_prefix",
)
DOMAIN = re.compile(r"^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$")
SITE_NAME = re.compile(r"^[a-z][a-z0-9-]{0,30}$")


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f"did you mean {found[0]}?" if found else f"known are {', '.join(sorted(known))}."


def _tiers(groups: dict, where: str) -> list[str]:
    problems = [
        f"{where}/hosts.yml: the tier {tier} has no host: name at least one." for tier in TIERS if not groups.get(tier)
    ]
    if len(groups.get("db") or []) == 2:
        problems.append(f"{where}/hosts.yml: db has 2 hosts, which cannot form a majority: name 1, 3 or more.")
    return problems


def _addresses(groups: dict, hostvars, where: str) -> list[str]:
    at = defaultdict(list)
    for host in groups["all"]:
        at[hostvars[host].get("ansible_host", host)].append(host)
    return [
        f"{where}/hosts.yml: {' and '.join(hosts)} have the same ansible_host, {address}: give each its own."
        for address, hosts in at.items()
        if len(hosts) > 1
    ]


def _site(name: str, site: dict, defaults: dict, file: str) -> list[str]:
    if not SITE_NAME.match(name):
        return [f"{file}: sites.{name}: a site's name is small letters, digits and dashes, 31 at most."]
    if not isinstance(site, dict):
        return [f"{file}: sites.{name} is not a mapping: give it source, domains and settings_module."]
    known = [*SITE_REQUIRED, *SITE_DERIVED, *defaults]
    problems = [
        f"{file}: sites.{name}.{key} is not a key of a site: {_nearest(key, known)}" for key in site if key not in known
    ]
    required = SITE_REQUIRED + (() if site.get("app_type") == "wsgi" else ("settings_module",))
    problems += [f"{file}: sites.{name}.{key} is missing: set it." for key in required if not site.get(key)]
    problems += [
        f"{file}: sites.{name}.domains: '{domain}' is not a host name."
        for domain in site.get("domains") or []
        if not DOMAIN.match(str(domain))
    ]
    source = site.get("source")
    if isinstance(source, dict) and "path" in source and not (ROOT / source["path"]).is_dir():
        problems.append(f"{file}: sites.{name}.source.path: there is no folder {source['path']}.")
    return problems


def _sites(sites: dict, defaults: dict, file: str) -> list[str]:
    if not sites or not isinstance(sites, dict):
        return [f"{file}: sites names no site: see docs/sites.md."]
    problems = [problem for name, site in sites.items() for problem in _site(name, site, defaults, file)]
    if problems:
        return problems
    # Not site_list: the defaults in it may need facts, and no host has been asked for any yet.
    complete = complete_sites(sites, {}, "")
    for key, what in (("domains", "domain"), ("port", "port"), ("user", "user"), ("database", "database")):
        owner: dict = {}
        for site in complete:
            for value in site[key] if isinstance(site[key], list) else [site[key]]:
                if owner.setdefault(value, site["name"]) != site["name"]:
                    problems.append(
                        f"{file}: sites.{site['name']}.{key}: the {what} {value} is "
                        f"{owner[value]}'s already: set another."
                    )
    return problems


def _certificates(first, names: list[str], where: str) -> list[str]:
    file = f"{where}/group_vars/all/main.yml"
    source = first.get("certificates_source")
    if source not in ("ca", "files"):
        return [f"{file}: certificates_source is '{source}': set it to ca or files."]
    folder = Path(first.get("inventory_dir") or where) / "certificates"
    wanted = [folder / f"{name}.{kind}" for name in [*names, "monitor"] for kind in ("crt", "key")]
    missing = [str(path) for path in wanted if not path.is_file()]
    if source == "ca" or not missing:
        return []
    more = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
    return [f"{file}: certificates_source is files, and there is no {missing[0]}{more}: put it there, or set ca."]


def preflight_problems(groups: dict, hostvars) -> list[str]:
    """Every problem of the inventory, as sentences; an empty list where there is none."""
    first = hostvars[groups["all"][0]]
    where = f"inventories/{first.get('env_name', '<env>')}"
    problems = _tiers(groups, where)
    if problems:
        return problems
    secrets = re.findall(r"\bvault_\w+", (ROOT / "group_vars/all/secrets.yml").read_text())
    missing = [name for name in secrets if name not in first]
    if missing:
        return [
            f"{where}/group_vars/all/vault.yml: {missing[0]} is not set"
            f"{f' (nor are {len(missing) - 1} more)' if len(missing) > 1 else ''}: "
            f"run make secrets ENV={first.get('env_name', '<env>')}."
        ]
    # A value that cannot be decrypted comes as a marker, not as text.
    if not isinstance(first[secrets[0]], str):
        return [f"{where}/group_vars/all/vault.yml cannot be decrypted: write its password into .vault-password."]
    sites_file = f"{where}/group_vars/all/sites.yml"
    sites = first.get("sites")
    problems = _addresses(groups, hostvars, where) + _sites(sites, first["site_defaults"], sites_file)
    return problems or _certificates(first, sorted(sites), where)


class FilterModule:
    def filters(self):
        return {"preflight_problems": preflight_problems}
