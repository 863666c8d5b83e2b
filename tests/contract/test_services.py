"""The table of services is well formed, and what is read from it (the firewall) agrees with it."""

import re
from collections import Counter
from ipaddress import ip_network

import pytest
from environments import ROOT, SOURCES, Environment, environment, rendered, trust_as_template

from plugins.filter.trestle import firewall_rules, in_tiers, members, natural, service_ports

TABLE = ROOT / "group_vars/all/services.yml"
EXPRESSION = trust_as_template("{{ services | firewall_rules(host_tiers, tier_members, site_list, admin_networks) }}")
SERVICES = environment("production").value("db1", "services")
TIERS = environment("production").value("db1", "tiers")
PROTOCOLS = {"tcp", "udp", "vrrp"}

each = pytest.mark.parametrize("name", SOURCES)


def rules(here: Environment, host: str) -> dict[str, dict]:
    """A host's firewall rules by service, as the role computes them."""
    return {rule["name"]: rule for rule in here.templar(here.vars_of(host)).template(EXPRESSION)}


def addresses(here: Environment, tier: str) -> set[str]:
    return {member["address"] for member in here.value(here.hosts[0], f"tier_members.{tier}")}


def test_every_key_of_the_table_is_explained_at_its_head_and_used():
    comment = TABLE.read_text().split("\nservices:")[0]
    explained = set(re.findall(r"^#   (\w+) {2,}", comment, re.MULTILINE))
    used = {key for service in SERVICES for key in service}
    assert used == explained


def test_names_are_unique_and_every_service_says_where_it_runs_and_who_may_come():
    assert not [name for name, count in Counter(service["name"] for service in SERVICES).items() if count > 1]
    for service in SERVICES:
        assert service["tier"] in {"all", "vip", "perlbal", *TIERS}, service
        assert isinstance(service["from"], list), service
        assert set(service["from"]) <= {*TIERS, "admin", "world"}, service
        assert service.get("protocol", "tcp") in PROTOCOLS, service
        assert "port" in service or not service["from"], f"{service['name']} lets in, but has no port"
        assert service.get("port", "per_site") == "per_site" or 0 < service["port"] < 65536, service


def test_only_the_load_balancers_are_open_to_the_world_and_only_on_80_and_443():
    assert {(s["tier"], s["port"]) for s in SERVICES if "world" in s["from"]} == {("lb", 80), ("lb", 443)}


@each
def test_no_two_services_of_a_host_listen_on_one_port(name):
    """A host may carry every tier; only pgpool shares a port, with PostgreSQL, and it stays on 127.0.0.1."""
    here = environment(name)
    sites = here.value(here.hosts[0], "site_list")
    listening = Counter(
        (service.get("protocol", "tcp"), port)
        for service in SERVICES
        if "port" in service and service["name"] != "pgpool"
        for port in service_ports(service, sites)
    )
    assert not [port for port, count in listening.items() if count > 1]
    assert next(service["from"] for service in SERVICES if service["name"] == "pgpool") == []


@each
def test_the_firewall_of_every_host_is_the_table(name):
    here = environment(name)
    sites = here.value(here.hosts[0], "site_list")
    admin = here.value(here.hosts[0], "admin_networks")
    for host in here.hosts:
        found = rules(here, host)
        expected = {
            s["name"]: s for s in in_tiers(SERVICES, here.value(host, "host_tiers")) if "port" in s and s["from"]
        }
        assert found.keys() == expected.keys(), host
        for service, rule in found.items():
            peers = expected[service]["from"]
            assert rule["ports"] == service_ports(expected[service], sites)
            if "world" in peers or ("admin" in peers and not admin):
                assert rule["sources"] is None, f"{service} on {host}"
            else:
                tiers = set().union(*(addresses(here, tier) for tier in peers if tier in TIERS))
                assert set(rule["sources"]) == tiers | (set(admin) if "admin" in peers else set()), (
                    f"{service} on {host}"
                )


@each
def test_a_stranger_reaches_the_load_balancers_on_80_and_443_alone(name):
    """Engineers' SSH apart, which is open only where no networks of theirs are named."""
    here = environment(name)
    for host in here.hosts:
        for rule in rules(here, host).values():
            if rule["sources"] is None and rule["name"] != "ssh":
                assert "lb" in here.value(host, "host_tiers"), f"{rule} on {host}"
                assert set(rule["ports"]) <= {80, 443}, f"{rule} on {host}"
        if here.value(host, "admin_networks"):
            assert rules(here, host)["ssh"]["sources"] is not None


@each
def test_every_source_is_an_address_or_a_network(name):
    here = environment(name)
    for host in here.hosts:
        for rule in rules(here, host).values():
            for source in rule["sources"] or []:
                ip_network(source)


@pytest.mark.parametrize("gone", ["web3", "db2", "media2", "lb2"])
def test_a_host_that_is_removed_leaves_no_address_in_any_rule(gone):
    whole, rest = environment("production"), Environment("production", without=gone)
    address = whole.value(gone, "host_address")
    assert gone not in rest.hosts
    assert any(address in (rule["sources"] or []) for host in whole.hosts for rule in rules(whole, host).values())
    for host in rest.hosts:
        assert rest.value(host, "host_address") == whole.value(host, "host_address")
        assert not [rule for rule in rules(rest, host).values() if address in (rule["sources"] or [])]


@each
def test_every_rule_is_in_the_rendered_firewall(name):
    here = environment(name)
    texts = {file.host: file.text for file in rendered(name, "firewall")}
    for host in here.hosts:
        for rule in rules(here, host).values():
            for port in rule["ports"] if rule["protocol"] != "vrrp" else ["vrrp"]:
                assert re.search(rf"\b{port}\b", texts[host]), f"{rule['name']} is not in the firewall of {host}"
            for source in rule["sources"] or []:
                assert source in texts[host], f"{source} is not in the firewall of {host}"
        assert re.search(r"hook input .*policy drop", texts[host]), host


def test_an_empty_list_of_engineers_networks_is_anyone_and_a_tier_without_hosts_is_nobody():
    services = [
        {"name": "ssh", "tier": "all", "port": 22, "from": ["admin"]},
        {"name": "cache", "tier": "all", "port": 11211, "from": ["web"]},
    ]
    assert firewall_rules(services, [], {}, [], [])[0]["sources"] is None
    assert firewall_rules(services, [], {}, [], ["10.0.0.0/8"])[0]["sources"] == ["10.0.0.0/8"]
    assert firewall_rules(services, [], {"web": []}, [], [])[1]["sources"] == []


def test_the_members_of_a_tier_are_counted_as_people_count():
    hostvars = {name: {"host_address": name, "host_fqdn": name} for name in ("web10", "web2")}
    assert [member["name"] for member in members(["web10", "web2"], hostvars)] == ["web2", "web10"]
    assert natural(["b1", "a10", "a9"]) == ["a9", "a10", "b1"]
