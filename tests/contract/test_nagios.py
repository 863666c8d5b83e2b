"""What Nagios checks, what the agents run and what Munin draws are the table of services and the inventory."""

import os
import re
import subprocess
from collections import Counter

import pytest
import yaml
from environments import ROOT, SOURCES, Environment, environment, rendered

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
        assert set(found["hostgroups"].split(",")) == set(here.value(host, "host_tiers")) - {"vip", "perlbal"}


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


@each
def test_every_host_is_asked_for_its_drain_flags_and_nobody_is_told_of_them(name):
    templates = {s["name"]: s for s in objects(name)["service"] if "name" in s}
    quick = templates["drained"]
    listed = [s for s in objects(name)["service"] if "host_name" in s]
    assert {s["host_name"] for s in listed if s["use"] == "drained"} == set(environment(name).hosts)
    assert {s["check_command"].split()[-1] for s in listed if s["use"] == "drained"} == {"drained"}
    assert quick["notifications_enabled"] == "0" and quick["max_check_attempts"] == "1"
    assert [s["obsess"] for s in templates.values()] == ["0", "1"], "only this check is followed by nagios-silence"
    every = templates["every_service"]
    assert int(quick["check_interval"]) < int(every["retry_interval"]) * (int(every["max_check_attempts"]) - 1), (
        "a fault is told before the drain is seen"
    )


def downtime(host: str, comment: str) -> str:
    return f"hostdowntime {{\n\thost_name={host}\n\tdowntime_id=1\n\tauthor=ada\n\tcomment={comment}\n\t}}\n\n"


OURS = "drained: /var/lib/trestle/drain"
SCHEDULE = rf"\[\d+\] SCHEDULE_HOST_DOWNTIME;web1;\d+;\d+;1;0;0;trestle;{OURS}\n"
DELETE = rf"\[\d+\] DEL_DOWNTIME_BY_HOST_NAME;web1;;;{OURS}\n"


@pytest.mark.parametrize(
    ("state", "downtimes", "told"),
    [
        ("1", "", SCHEDULE),
        ("1", downtime("web1", OURS), ""),
        ("1", downtime("web1", "a new disk") + downtime("web2", OURS), SCHEDULE),
        ("0", "", ""),
        ("0", downtime("web1", OURS), DELETE),
        ("0", downtime("web1", "a new disk") + downtime("web2", OURS), ""),
        ("2", downtime("web1", OURS), ""),
        ("2", "", ""),
        ("3", downtime("web1", OURS), ""),
    ],
)
def test_a_host_has_our_downtime_while_it_is_drained(tmp_path, state, downtimes, told):
    """The script beside a state of Nagios and a pipe like its own."""
    status, pipe = tmp_path / "status.dat", tmp_path / "nagios.cmd"
    status.write_text("info {\n\tversion=4.4.6\n\t}\n\n" + downtimes)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    done = silence(tmp_path, state)
    assert done.returncode == 0, done.stderr
    try:
        heard = os.read(reader, 4096).decode()
    finally:
        os.close(reader)
    assert re.fullmatch(told, heard), heard


def test_nothing_is_written_where_nagios_is_not_running(tmp_path):
    """A file where it wants to make its pipe would keep it from starting."""
    (tmp_path / "status.dat").write_text("")
    silence(tmp_path, "1")
    assert [path.name for path in tmp_path.iterdir() if path.name != "silence"] == ["status.dat"]


def silence(folder, state: str) -> subprocess.CompletedProcess:
    text = (ROOT / "roles/nagios/files/usr/local/lib/trestle/nagios-silence").read_text()
    script = folder / "silence"
    script.write_text(text.replace("/var/lib/nagios4/rw/", f"{folder}/").replace("/var/lib/nagios4/", f"{folder}/"))
    return subprocess.run(["sh", script, "web1", state], capture_output=True, text=True, timeout=10)


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (None, 0, "OK: not drained"),
        ([], 0, "OK: not drained"),
        (["deploy", "manual"], 1, "WARNING: drained: deploy manual"),
    ],
)
def test_an_agent_names_the_flags_of_its_host(tmp_path, flags, code, says):
    folder = tmp_path / "drain"
    if flags is not None:
        folder.mkdir()
        for flag in flags:
            (folder / flag).touch()
    script = tmp_path / "check_system"
    text = (ROOT / "roles/nagios_agent/files/check_system").read_text()
    script.write_text(text.replace("/var/lib/trestle/drain", str(folder)))
    done = subprocess.run(["sh", script, "drained"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout.strip()) == (code, says)


MUNIN = ROOT / "roles/munin_node"
OWN = MUNIN / "files/usr/local/share/munin/plugins"


def test_every_graph_of_our_own_is_named_and_drawn_somewhere():
    names = yaml.safe_load((MUNIN / "vars/main.yml").read_text())["__munin_node_own"]
    table = yaml.safe_load((ROOT / "group_vars/all/services.yml").read_text())["services"]
    assert sorted(names) == sorted(path.name for path in OWN.iterdir())
    assert set(names) <= {graph for service in table for graph in service.get("graphs", [])}


def test_a_graph_is_munin_s_or_our_own(tmp_path):
    """The script with other folders: plugins of both kinds are linked, what is unknown is refused."""
    text = (MUNIN / "files/enable_plugins").read_text()
    folders = {
        "/usr/share/munin/plugins": "debian",
        "/usr/local/share/munin/plugins": "own",
        "/etc/munin/plugins": "on",
    }
    for path, name in folders.items():
        text = text.replace(f"={path}\n", f"={tmp_path / name}\n")
        (tmp_path / name).mkdir()
    for plugin in ("debian/if_", "debian/cpu", "own/pgpool_follower"):
        (tmp_path / plugin).touch(0o755)
    (tmp_path / "on/load").symlink_to(tmp_path / "debian/load")

    def enable(*names: str) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "-c", text, "enable_plugins", *names], capture_output=True, text=True, timeout=20)

    assert enable("cpu", "if_ens3", "pgpool_follower").returncode == 0
    links = {path.name: str(path.readlink().relative_to(tmp_path)) for path in (tmp_path / "on").iterdir()}
    assert links == {"cpu": "debian/cpu", "if_ens3": "debian/if_", "pgpool_follower": "own/pgpool_follower"}
    assert enable("cpu", "if_ens3", "pgpool_follower").stdout == ""
    assert "There is no Munin plugin for 'zzz'" in enable("zzz").stderr
