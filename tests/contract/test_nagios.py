"""What Nagios checks, what the agents run and what Munin draws are the table of services and the inventory."""

import re
from collections import Counter

import pytest
from environments import SOURCES, Environment, environment, rendered

from plugins.filter.monitoring import agent_commands, munin_graphs, nagios_services, ssha

each = pytest.mark.parametrize("name", SOURCES)
OBJECTS = "/etc/nagios4/conf.d/trestle.cfg"


def objects(name: str) -> dict[str, list[dict[str, str]]]:
    """The rendered definitions by kind."""
    text = next(file.text for file in rendered(name, "nagios") if file.dest == OBJECTS)
    found: dict[str, list[dict[str, str]]] = {}
    for kind, body in re.findall(r"^define (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        pairs = dict(line.split(None, 1) for line in body.splitlines() if line.strip())
        found.setdefault(kind, []).append(pairs)
    return found


def checks(name: str) -> dict[tuple[str, str], str]:
    return {
        (s["host_name"], s["service_description"]): s["check_command"]
        for s in objects(name)["service"]
        if "host_name" in s
    }


def members(here: Environment, tier: str) -> list[dict]:
    return here.value(here.hosts[0], f"tier_members.{tier}")


@each
def test_every_host_of_the_inventory_and_no_other_is_watched_in_its_tiers(name):
    here = environment(name)
    hosts = {h["host_name"]: h for h in objects(name)["host"] if "host_name" in h}
    assert set(hosts) == set(here.hosts)
    for host, found in hosts.items():
        assert found["address"] == here.value(host, "host_address")
        assert set(found["hostgroups"].split(",")) == set(here.value(host, "host_tiers")) - {"vip"}


@each
def test_every_check_of_the_table_is_made_on_every_host_of_its_tier(name):
    here = environment(name)
    services, sites = here.value(here.hosts[0], "services"), here.value(here.hosts[0], "site_list")
    expected = Counter()
    for service in services:
        number = (
            ("check" in service) + len(sites) * ("per_site_check" in service) + len(service.get("agent_checks", {}))
        )
        for member in members(here, service["tier"]):
            expected[member["name"]] += number
    assert Counter(host for host, _ in checks(name)) == expected


@each
def test_no_host_has_two_checks_of_one_name(name):
    found = [(s["host_name"], s["service_description"]) for s in objects(name)["service"] if "host_name" in s]
    assert len(found) == len(set(found))


@each
def test_what_nagios_asks_an_agent_is_what_that_agent_runs(name):
    files = {f.host: f.text for f in rendered(name, "nagios_agent") if f.dest == "/etc/nagios/nrpe.cfg"}
    asked: dict[str, set[str]] = {host: set() for host in files}
    for (host, _), command in checks(name).items():
        if match := re.search(r"check_nrpe .* -c (\w+)$", command):
            asked[host].add(match[1])
    for host, text in files.items():
        assert set(re.findall(r"^command\[(\w+)\]=", text, re.MULTILINE)) == asked[host], host


@each
def test_only_the_monitor_may_ask_an_agent_or_a_node(name):
    here = environment(name)
    monitors = {member["address"] for member in members(here, "monitor")}
    for file in rendered(name, "nagios_agent"):
        if file.dest == "/etc/nagios/nrpe.cfg":
            allowed = re.search(r"^allowed_hosts=(.*)$", file.text, re.MULTILINE)[1].split(",")
            assert set(allowed) == monitors | {"127.0.0.1"}
    for file in rendered(name, "munin_node"):
        if file.dest == "/etc/munin/munin-node.conf":
            assert set(re.findall(r"^cidr_allow (.*)/32$", file.text, re.MULTILINE)) == monitors


@each
def test_munin_asks_every_host_of_the_inventory_and_no_other(name):
    here = environment(name)
    text = next(file.text for file in rendered(name, "munin") if file.dest == "/etc/munin/munin.conf")
    found = dict(re.findall(r"^\[\w+;(.+)\]\n +address (.+)$", text, re.MULTILINE))
    assert found == {host: here.value(host, "host_address") for host in here.hosts}


TABLE = [
    {"name": "system", "tier": "all", "agent_checks": {"units": "check_units {units}"}, "graphs": ["if_{interface}"]},
    {"name": "ssh", "tier": "all", "unit": "ssh", "check": "check_ssh -p 22"},
    {"name": "web", "tier": "lb", "unit": "nginx", "per_site_check": "check_http -p 443 -H {domain} -u /"},
    {"name": "app", "tier": "web", "unit": "app", "per_site_check": "check_ready -p {port}", "graphs": ["cpu"]},
]
MEMBERS = {
    "all": [{"name": "a"}, {"name": "b"}],
    "lb": [{"name": "a"}],
    "web": [{"name": "b"}],
}
SITES = [{"name": "one", "domains": ["one.example", "www.one.example"], "port": 8111}]


def test_a_check_goes_to_the_hosts_address_whatever_virtual_host_it_names():
    found = {(c["host"], c["description"]): c["command"] for c in nagios_services(TABLE, MEMBERS, SITES)}
    assert found[("a", "web one")] == "check_http -I $HOSTADDRESS$ -p 443 -H one.example -u /"
    assert found[("b", "app one")] == "check_ready -H $HOSTADDRESS$ -p 8111"
    assert found[("b", "ssh")] == "check_ssh -H $HOSTADDRESS$ -p 22"
    assert found[("b", "system units")] == "check_nrpe -H $HOSTADDRESS$ -t 30 -c units"
    assert ("b", "web one") not in found


def test_a_host_is_asked_for_the_units_and_graphs_of_its_own_tiers():
    assert agent_commands(TABLE, ["lb"]) == {"units": "check_units nginx ssh"}
    assert agent_commands(TABLE, ["lb", "web"]) == {"units": "check_units app nginx ssh"}
    assert munin_graphs(TABLE, ["lb"], "ens3") == ["if_ens3"]
    assert munin_graphs(TABLE, ["web"], "ens3") == ["cpu", "if_ens3"]


@pytest.mark.parametrize("check", ["check_x -s 'a;b'", "check_x a!b", "check_x `id`"])
def test_a_check_that_nagios_would_misread_is_refused(check):
    table = [{"name": "x", "tier": "lb", "check": check}]
    with pytest.raises(Exception, match="Nagios reads as its own"):
        nagios_services(table, MEMBERS, [])


def test_two_agent_checks_of_one_name_are_refused():
    table = [{"name": n, "tier": "all", "agent_checks": {"disk": "check_disk"}} for n in "xy"]
    with pytest.raises(Exception, match="Two services name an agent check 'disk'"):
        agent_commands(table, [])


def test_the_same_password_is_the_same_line_and_another_is_another():
    assert ssha("secret", "admin") == ssha("secret", "admin")
    assert len({ssha("secret", "admin"), ssha("secret", "root"), ssha("other", "admin")}) == 3
