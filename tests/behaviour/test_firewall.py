"""Who can connect to what: a stranger to the front door alone, each tier to what the table of services says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import TIERS

# Every port of the table, and a few that somebody might leave open.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def is_open(target):
    with socket.socket() as s:
        s.settimeout(1.5)
        return s.connect_ex(tuple(target)) == 0
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(200) as pool:
    print(json.dumps([t for t, o in zip(targets, pool.map(is_open, targets)) if o]))
"""


@pytest.fixture(scope="module")
def ports(services, sites) -> list[int]:
    declared = {s["port"] for s in services if isinstance(s.get("port"), int)}
    return sorted(declared | {site["port"] for site in sites} | {21, 111, 3306, 6379, 8000, 8080, 9000, 9898})


@pytest.fixture(scope="module")
def stranger(lab):
    """A machine on the same network that no inventory names."""
    some = next(iter(lab.containers().values()))
    made = lab.client.containers.run(
        some.image.id, ["sleep", "300"], detach=True, network=lab.prefix, labels={"trestle.lab": lab.name}
    )
    yield made
    made.remove(force=True)


def reached(run, addresses: list[str], ports: list[int]) -> set[tuple[str, int]]:
    targets = [[address, port] for address in addresses for port in ports]
    return {(address, port) for address, port in json.loads(run(["python3", "-c", PROBE, json.dumps(targets)]))}


def test_a_stranger_reaches_only_the_front_door(lab, stranger, ports):
    found = lab.containers()
    addresses = {lab.address(container) for container in found.values()} | {lab.front_address()}
    doors = {lab.address(found[name]) for name, tiers in TIERS.items() if "lb" in tiers} | {lab.front_address()}
    open_ports = reached(lambda argv: stranger.exec_run(argv, stderr=False).output, sorted(addresses), ports)
    assert open_ports == {(door, port) for door in doors for port in (80, 443)}


def test_each_tier_reaches_what_the_table_says_and_nothing_else(lab, services, sites, ports):
    if len(TIERS) == 1:
        pytest.skip("one host carries every tier: nothing crosses its firewall but the front door")
    found = lab.containers()
    address = {name: lab.address(container) for name, container in found.items()}

    def check(name: str) -> list[str]:
        allowed = set()
        for service in services:
            peers = set(service["from"])
            if "port" not in service or service.get("protocol") == "vrrp":
                continue
            if not peers & {"world", *TIERS[name]}:
                continue
            numbers = [s["port"] for s in sites] if service["port"] == "per_site" else [service["port"]]
            hosts = [h for h, tiers in TIERS.items() if service["tier"] == "all" or service["tier"] in tiers]
            allowed |= {(address[h], number) for h in hosts for number in numbers}
        others = sorted(a for n, a in address.items() if n != name)
        really = reached(lambda argv: found[name].exec_run(argv, stderr=False).output, others, ports)
        wrong = []
        if surplus := really - allowed:
            wrong.append(f"{name} reaches what the table does not allow: {sorted(surplus)}")
        if missing := {(a, p) for a, p in allowed if a in others} - really:
            wrong.append(f"{name} does not reach what the table allows: {sorted(missing)}")
        return wrong

    with ThreadPoolExecutor(4) as pool:
        wrong = [line for lines in pool.map(check, sorted(found)) for line in lines]
    assert not wrong, "\n".join(wrong)
