"""What the inventory, the table of services and ``sites`` say, in the form that plays and templates read."""

from __future__ import annotations

import hmac
import re
import socket
import zlib

from ansible.errors import AnsibleFilterError
from ansible.module_utils.common.text.formatters import human_to_bytes

SITE_PORT_FIRST = 8100
SITE_PORT_COUNT = 800
PERLBAL_PORT_OFFSET = 1000


def resolve(name: str) -> str:
    """The IPv4 address of a name; an address is returned as it is."""
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise AnsibleFilterError(f"'{name}' does not resolve to an address: {error.strerror or error}") from error


def natural(names: list[str]) -> list[str]:
    """Names in the order a person counts them: web2 before web10."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def members(names: list[str], hostvars) -> list[dict[str, str]]:
    """``{name, address, fqdn}`` of each host of a tier, in a stable order."""
    known = ((name, hostvars[name]) for name in natural(names))
    return [{"name": name, "address": host["host_address"], "fqdn": host["host_fqdn"]} for name, host in known]


def remembered(names: list[str], hostvars) -> dict[str, dict]:
    """``{address, cores}`` of each host: what the configuration of others is made of, for when it is down."""
    known = ((name, hostvars[name]) for name in natural(names))
    return {name: {"address": host["host_address"], "cores": int(host["host_cores"])} for name, host in known}


def derived_secret(key: str, *context: str) -> str:
    """A secret that follows from the environment's key, so that a new site needs no new secret."""
    return hmac.new(key.encode(), ":".join(context).encode(), "sha256").hexdigest()


def site_port(name: str) -> int:
    """A gunicorn port that stays the same when other sites come and go."""
    return SITE_PORT_FIRST + zlib.crc32(name.encode()) % SITE_PORT_COUNT


def complete_sites(sites: dict, defaults: dict, key: str) -> list[dict]:
    """Every site with every key: what its entry leaves out is taken from ``defaults`` or follows from its name."""
    complete = []
    for name in natural(list(sites)):
        site = dict(defaults) | dict(sites[name])
        identifier = re.sub(r"[^a-z0-9]", "_", name.lower())
        follows = {
            "user": identifier.replace("_", "-"),
            "root": f"/srv/{name}",
            "port": site_port(name),
            "perlbal_port": int(site.get("port", site_port(name))) + PERLBAL_PORT_OFFSET,
            "wsgi_module": site.get("settings_module", "").split(".")[0] + ".wsgi",
            "database": identifier,
            "database_user": identifier,
            "database_password": derived_secret(key, name, "database"),
            "secret_key": derived_secret(key, name, "secret_key"),
            "cache_prefix": identifier,
        }
        complete.append({"name": name} | follows | site)
    return complete


def complete_programs(sites: list[dict], defaults: dict) -> list[dict]:
    """The sites with every key of every program; gunicorn, which each has, is also the site's own key.

    ``defaults`` has two entries, of gunicorn and of any ``other`` program.
    """
    complete = []
    for site in sites:
        programs = [
            dict(defaults["gunicorn" if entry["name"] == "gunicorn" else "other"]) | dict(entry)
            for entry in site["programs"]
        ]
        for program in programs:
            program["memory_limit"] = memory_bytes(f"sites.{site['name']}.programs", program)
            # supervisor starts one gunicorn, which starts its processes itself.
            program["processes"] = 1 if program["name"] == "gunicorn" else int(program["count"])
        gunicorn = next(program for program in programs if program["name"] == "gunicorn")
        complete.append(site | {"programs": programs, "gunicorn": gunicorn})
    return complete


def memory_bytes(where: str, program: dict) -> int:
    """A program's memory limit in bytes; 0 is none."""
    try:
        return human_to_bytes(program["memory_limit"] or 0)
    except ValueError as error:
        raise AnsibleFilterError(
            f"{where}: the memory_limit of {program['name']} is '{program['memory_limit']}': write it like 512m or 2g."
        ) from error


def in_tiers(services: list[dict], tiers: list[str]) -> list[dict]:
    """The services that a host which is in ``tiers`` runs; tier ``all`` is every host."""
    return [service for service in services if service["tier"] == "all" or service["tier"] in tiers]


def service_ports(service: dict, sites: list[dict]) -> list[int]:
    """The ports of a service: its own, or one for each site."""
    return sorted(site["port"] for site in sites) if service["port"] == "per_site" else [service["port"]]


def firewall_rules(
    services: list[dict], tiers: list[str], tier_members: dict, sites: list[dict], admin_networks: list[str]
) -> list[dict]:
    """The rules of one host: ``{name, protocol, ports, sources}``, where ``sources`` None is anyone."""
    rules = []
    for service in in_tiers(services, tiers):
        peers = service["from"]
        if "port" not in service or not peers:
            continue
        sources = sorted({m["address"] for tier in peers for m in tier_members.get(tier, [])})
        if "admin" in peers:
            sources = sources + admin_networks if admin_networks else None
        if "world" in peers:
            sources = None
        rules.append(
            {
                "name": service["name"],
                "protocol": service.get("protocol", "tcp"),
                "ports": service_ports(service, sites),
                "sources": sources,
            }
        )
    return rules


class FilterModule:
    def filters(self):
        return {
            "resolve": resolve,
            "members": members,
            "remembered": remembered,
            "derived_secret": derived_secret,
            "complete_sites": complete_sites,
            "complete_programs": complete_programs,
            "firewall_rules": firewall_rules,
        }
