"""Sites: each entry has known keys of the right type, and no two sites share what must be their own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from plugins.filter.trestle import complete_sites
from plugins.preflight.inventory import ROOT, Failed, Inventory
from plugins.preflight.schema import faults_of_keys
from plugins.preflight.secrets import is_sample

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Accounts and databases that Debian, or a role here, has already.
TAKEN = {
    "root",
    "daemon",
    "www-data",
    "postgres",
    "template0",
    "template1",
    "nagios",
    "munin",
    "etcd",
    "memcache",
    "postfix",
}
# What two sites must not share, and how it is called.
OWN = {
    "domains": "domain",
    "port": "port",
    "user": "user",
    "database": "database",
    "database_user": "database user",
    "cache_prefix": "cache prefix",
}


@cache
def documented() -> dict[str, dict]:
    return yaml.safe_load((Path(__file__).parent / "site_keys.yml").read_text())


def specifications(defaults: dict) -> dict[str, dict]:
    """Every key that a site may have, and what may be in it."""
    derived = complete_sites({"any": {}}, defaults, "")[0].keys() - {"name"}
    required = {name for name, spec in documented().items() if spec.get("required")}
    names = {"settings_module", *required, *defaults, *derived}
    return {name: documented().get(name, like(defaults.get(name))) for name in names}


def like(default) -> dict:
    """The specification that a default is an example of."""
    kind = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}.get(type(default), "raw")
    return {"type": kind, "elements": "str"} if kind == "list" else {"type": kind}


def check(inventory: Inventory) -> Iterator[str]:
    sites, defaults = inventory.common.value("sites"), inventory.common.value("site_defaults")
    if not isinstance(sites, dict):
        return  # variables.py has said so
    if not sites:
        yield inventory.common.problem("sites", "names no site: see docs/sites.md.")
    specs = specifications(defaults)
    problems = [found for name, site in sites.items() for found in entry(name, site, specs)]
    for path, text in problems or shared(inventory, sites, defaults):
        yield inventory.common.problem(("sites", *path), text)


def entry(name, site, specs: dict) -> Iterator[tuple[tuple, str]]:
    if not NAME.fullmatch(str(name)):
        yield (name,), "is no name for a site: write small letters, digits and dashes, 31 at most."
    elif not isinstance(site, dict):
        if not isinstance(site, Failed):
            yield (name,), "is not a mapping: give it source, domains and settings_module."
    else:
        wrong = [*faults_of_keys(site, specs, (name,)), *modules(name, site)]
        seen = {path[1] for path, _ in wrong}
        yield from wrong
        for key, part in (("domains", domains), ("environment", environment), ("programs", programs)):
            if key in site and key not in seen and not isinstance(site[key], Failed):
                yield from part(name, site[key])
        if site.get("media_storage") == "s3" and not site.get("s3"):
            yield (name, "s3"), "is missing: media_storage is s3, so give it bucket, access_key and secret_key."
        yield from folders(name, site)
        yield from samples(name, site)


def modules(name: str, site: dict) -> Iterator[tuple[tuple, str]]:
    wanted = ("settings_module",) if site.get("app_type") != "wsgi" else ("wsgi_module", "settings_module")
    if not any(site.get(key) for key in wanted):
        example = {"settings_module": f"{name}.settings", "wsgi_module": f"{name}.wsgi:application"}[wanted[0]]
        yield (name, wanted[0]), f"is missing: set it, as in {example}."


def domains(name: str, listed: list) -> Iterator[tuple[tuple, str]]:
    if not listed:
        yield (name, "domains"), "is empty: name one domain at least."
    for domain, count in Counter(map(str, listed)).items():
        if count > 1:
            yield (name, "domains"), f"names {domain} {count} times: once is enough."


def environment(name: str, variables: dict) -> Iterator[tuple[tuple, str]]:
    for key, value in variables.items():
        if not ENVIRONMENT_NAME.fullmatch(str(key)):
            yield (name, "environment", key), "is no name of an environment variable: write letters, digits and _."
        elif not isinstance(value, (str, int, float, bool, Failed)):
            yield (name, "environment", key), "is not text: write one value in quotes."


def programs(name: str, listed: list) -> Iterator[tuple[tuple, str]]:
    names = Counter(program["name"] for program in listed)
    if "gunicorn" not in names:
        yield (name, "programs"), "has no gunicorn: add {name: gunicorn}."
    for program, count in names.items():
        if count > 1:
            yield (name, "programs"), f"names {program} {count} times: give each a name of its own, or set its count."
    for number, program in enumerate(listed):
        place, is_gunicorn = (name, "programs", number), program["name"] == "gunicorn"
        if not is_gunicorn and not program.get("command"):
            yield (*place, "command"), f"is missing: say what {program['name']} runs."
        foreign, why = ({"once"}, "not") if is_gunicorn else ({"threads", "timeout_seconds"}, "only")
        for key in sorted(foreign & program.keys()):
            yield (*place, key), f"is {why} for gunicorn: delete it."
        if program.get("once") and program.get("count", 1) != 1:
            yield (*place, "count"), "is more than one of a program with once: delete one of the two."


def folders(name: str, site: dict) -> Iterator[tuple[tuple, str]]:
    pages = site.get("pages")
    if pages and isinstance(pages, str) and not (ROOT / pages).is_dir():
        yield (name, "pages"), f"names {pages}, and there is no such folder: correct it."


def samples(name: str, site: dict) -> Iterator[tuple[tuple, str]]:
    for key in ("secret_key", "database_password"):
        if isinstance(site.get(key), str) and is_sample(site[key]):
            yield (name, key), "is a sample's value: delete it, and one is derived."


def shared(inventory: Inventory, sites: dict, defaults: dict) -> Iterator[tuple[tuple, str]]:
    """What a site has that is another's already, a service's or the system's."""
    # Not site_list: the defaults in it may need facts.
    complete = complete_sites(sites, defaults, "")
    owners: dict[str, dict] = {key: {} for key in OWN}
    owners["domains"] = {inventory.common.value("monitor_domain"): "monitor_domain"}
    owners["port"] = {
        service["port"]: f"the service {service['name']}"
        for service in inventory.common.value("services")
        if isinstance(service.get("port"), int)
    }
    for key in ("user", "database", "database_user"):
        owners[key] = dict.fromkeys(TAKEN, "the system")
    for site in complete:
        for key, what in OWN.items():
            for value in site[key] if isinstance(site[key], list) else [site[key]]:
                if owners[key].setdefault(value, site["name"]) != site["name"]:
                    yield (site["name"], key), f"has the {what} {value}, which is {owners[key][value]}'s: set another."
