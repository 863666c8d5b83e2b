"""What Nagios checks and Munin draws, read from the table of services."""

from __future__ import annotations

import base64
import hashlib
import hmac

from ansible.errors import AnsibleFilterError


def _run_by(services: list[dict], tiers: list[str]) -> list[dict]:
    return [service for service in services if service["tier"] == "all" or service["tier"] in tiers]


def _from_outside(check: str) -> str:
    """A check with the address it goes to: -H, or -I where the check itself names a virtual host with -H."""
    if set(check) & set(";!`"):
        raise AnsibleFilterError(f"The check '{check}' holds a character that Nagios reads as its own: one of ; ! `")
    plugin, _, arguments = check.partition(" ")
    option = "-I" if "-H" in arguments.split() else "-H"
    return f"{plugin} {option} $HOSTADDRESS$ {arguments}".rstrip()


def _agent_description(service: dict, name: str) -> str:
    return name if name == service["name"] else f"{service['name']} {name}"


def nagios_hosts(tier_members: dict, tiers: list[str]) -> list[dict]:
    """``{name, address, fqdn, tiers}`` of every host."""
    names = {tier: {member["name"] for member in tier_members[tier]} for tier in tiers}
    return [dict(host) | {"tiers": [t for t in tiers if host["name"] in names[t]]} for host in tier_members["all"]]


def nagios_services(services: list[dict], tier_members: dict, sites: list[dict]) -> list[dict]:
    """``{host, description, command}`` of everything that is checked, in a stable order."""
    checks = []
    for service in services:
        found = []
        if "check" in service:
            found.append((service["name"], _from_outside(service["check"])))
        if "per_site_check" in service:
            for site in sites:
                check = service["per_site_check"].format(domain=site["domains"][0], port=site["port"])
                found.append((f"{service['name']} {site['name']}", _from_outside(check)))
        for name in service.get("agent_checks", {}):
            found.append((_agent_description(service, name), f"check_nrpe -H $HOSTADDRESS$ -t 30 -c {name}"))
        checks += [
            {"host": member["name"], "description": description, "command": command}
            for member in tier_members[service["tier"]]
            for description, command in found
        ]
    return sorted(checks, key=lambda check: (check["host"], check["description"]))


def agent_commands(services: list[dict], tiers: list[str]) -> dict[str, str]:
    """Name to command line of what the agent of a host in ``tiers`` may run."""
    mine = _run_by(services, tiers)
    units = " ".join(sorted({service["unit"] for service in mine if "unit" in service}))
    commands: dict[str, str] = {}
    for service in mine:
        for name, check in service.get("agent_checks", {}).items():
            if name in commands:
                raise AnsibleFilterError(f"Two services name an agent check '{name}': call one of them otherwise.")
            commands[name] = check.format(units=units)
    return commands


def munin_graphs(services: list[dict], tiers: list[str], interface: str) -> list[str]:
    """The Munin plugins of a host in ``tiers``."""
    mine = _run_by(services, tiers)
    return sorted({graph.format(interface=interface) for service in mine for graph in service.get("graphs", [])})


def munin_packages(services: list[dict], tiers: list[str]) -> list[str]:
    """The packages that the Munin plugins of a host in ``tiers`` need."""
    return sorted({package for service in _run_by(services, tiers) for package in service.get("graph_packages", [])})


def ssha(password: str, user: str) -> str:
    """A password for nginx's basic auth. The salt follows from both, so that the same password stays the same line."""
    salt = hmac.new(password.encode(), user.encode(), "sha256").digest()[:8]
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password.encode() + salt).digest() + salt).decode()


class FilterModule:
    def filters(self):
        return {
            "nagios_hosts": nagios_hosts,
            "nagios_services": nagios_services,
            "agent_commands": agent_commands,
            "munin_graphs": munin_graphs,
            "munin_packages": munin_packages,
            "ssha": ssha,
        }
