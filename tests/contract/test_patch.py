"""playbooks/patch.yml: what is found on a host, which hosts have something to do, and in which order they do it."""

import json

import programs
import pytest
import yaml
from environments import ROOT

from plugins.filter.patching import patch_leftovers, patch_order, patch_work, sites_only_here

SIMULATION = """Reading package lists...
The following packages have been kept back:
  linux-image-amd64 nginx-common
The following NEW packages will be installed:
  libnew1
The following packages will be upgraded:
  memcached openssl
2 upgraded, 1 newly installed, 0 to remove and 2 not upgraded.
Inst libnew1 (1.0 Debian:13.1/stable [amd64])
Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst memcached [1.6.38-1] (1.6.38-1+trestle1 localhost [amd64])
Conf libnew1 (1.0 Debian:13.1/stable [amd64])
Conf memcached (1.6.38-1+trestle1 localhost [amd64])
"""


@pytest.fixture
def status(tmp_path, monkeypatch):
    program = programs.load("base", "patch-status")
    monkeypatch.setattr(program, "PROC", tmp_path / "proc")
    monkeypatch.setattr(program, "DPKG", tmp_path / "dpkg")
    (tmp_path / "dpkg").mkdir()
    return program


def test_what_apt_would_upgrade_and_what_it_keeps_back(status):
    assert status.pending(SIMULATION) == (["memcached", "openssl"], ["linux-image-amd64", "nginx-common"])
    assert status.pending("Reading package lists...\n0 upgraded, 0 newly installed.\n") == ([], [])


PRESENT = "7f00-7f01 r-xp 00000000 00:2d 41 /usr/lib/x86_64-linux-gnu/libssl.so.3\n"
GONE = "7f00-7f01 r-xp 00000000 00:2d 41 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)\n"
SCRATCH = "7f00-7f01 rw-s 00000000 00:01 41 /dev/zero (deleted)\n7f00-7f01 rw-p 0 00:2d 1 /tmp/x (deleted)\n"


@pytest.mark.parametrize(
    ("cgroup", "maps", "found"),
    [
        ("0::/system.slice/nginx.service\n", GONE, {"nginx.service"}),
        ("0::/system.slice/nginx.service\n", PRESENT + SCRATCH, set()),
        ("1:cpu:/docker/9\n0::/docker/9/system.slice/nginx.service\n", PRESENT + GONE, {"nginx.service"}),
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", GONE, {"getty@tty1.service"}),
        ("0::/user.slice/user-0.slice/session-1.scope\n", GONE, set()),
    ],
)
def test_a_unit_with_a_file_that_was_replaced_under_it(status, tmp_path, cgroup, maps, found):
    process = tmp_path / "proc/41"
    process.mkdir(parents=True)
    (process / "cgroup").write_text(cgroup)
    (process / "maps").write_text(maps)
    (tmp_path / "proc/42").mkdir()  # it ended meanwhile
    assert status.outdated_processes() == found


def test_a_unit_whose_own_package_is_newer_than_its_process(status, tmp_path):
    lists = tmp_path / "dpkg"
    (lists / "patroni.list").touch()
    (lists / "libx:amd64.list").touch()
    unpacked = (lists / "patroni.list").stat().st_mtime
    unit = "/usr/lib/systemd/system/{}.service"
    owners = "".join(f"{name}: {unit.format(name)}\n" for name in ("patroni", "libx"))
    started = {"patroni": unpacked - 60, "libx": unpacked + 60, "ours": unpacked - 60}
    properties = "\n\n".join(
        f"Id={name}.service\nFragmentPath={unit.format(name)}\nExecMainStartTimestamp=@{when:.0f}"
        for name, when in started.items()
    )
    assert status.outdated_packages(properties, owners) == {"patroni.service"}


def test_what_is_found_can_be_limited_to_packages_and_units(status, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "output", lambda *command: SIMULATION if "--simulate" in command else "")
    monkeypatch.setattr(status, "outdated_processes", lambda: {"etcd.service", "patroni.service"})
    monkeypatch.setattr(status, "outdated_packages", lambda *_: set())
    monkeypatch.setattr(status, "FLAG", tmp_path / "flag")
    for arguments, upgrade, restart in (
        ([], ["memcached", "openssl"], ["etcd.service", "patroni.service"]),
        (["--unit=patroni.service", "openssl"], ["openssl"], ["patroni.service"]),
    ):
        monkeypatch.setattr("sys.argv", ["patch-status", *arguments])
        status.main()
        found = json.loads(capsys.readouterr().out)
        assert (found["upgrade"], found["restart"]) == (upgrade, restart)


def said(upgrade=(), restart=(), reboot=(), flagged=False, kept=()) -> str:
    return json.dumps(
        {"upgrade": [*upgrade], "restart": [*restart], "reboot": [*reboot], "flagged": flagged, "kept": [*kept]}
    )


def test_a_host_with_nothing_to_do_is_not_touched():
    assert patch_work(said(), True) == []
    assert patch_work(said(kept=["linux-image-amd64"]), True) == []
    assert patch_work(said(reboot=["linux-image-6.12"]), False) == []
    assert patch_work(said(reboot=["linux-image-6.12"]), True) == ["to reboot for: linux-image-6.12"]
    assert patch_work(said(["nginx", "openssl"]), False) == ["to upgrade: nginx openssl"]
    assert patch_work(said(restart=["nginx.service"]), False)
    assert patch_work(said(flagged=True), False) == ["an earlier run left this host drained"]


def names(**tiers) -> dict:
    return {
        tier: [{"name": name} for name in tiers.get(tier, ())]
        for tier in ("lb", "web", "db", "cache", "media", "monitor")
    }


PRODUCTION = names(
    lb=["lb1", "lb2"], web=["web1", "web2", "web3"], db=["db1", "db2", "db3"], cache=["cache1"], media=["media1"],
    monitor=["monitor1"],
)  # fmt: skip
ALL = [member["name"] for members in PRODUCTION.values() for member in members]


def test_tier_by_tier_and_who_leads_a_tier_last_in_it():
    order = patch_order(dict.fromkeys(ALL, said(["openssl"])), PRODUCTION, ["db1", "lb1"], False)
    assert order == ["cache1", "media1", "db2", "db3", "db1", "web1", "web2", "web3", "lb2", "lb1", "monitor1"]


def test_only_hosts_with_something_to_do_and_first_in_a_tier_what_an_earlier_run_left():
    hosts = dict.fromkeys(ALL, said()) | {
        "web1": said(["openssl"]),
        "web3": said(flagged=True),
        "db1": said(["openssl"], flagged=True),
        "db2": said(["openssl"]),
    }
    assert patch_order(hosts, PRODUCTION, ["db1"], False) == ["db1", "db2", "web3", "web1"]


def test_a_host_of_several_tiers_is_patched_once():
    everything = names(**{tier: ["dev1"] for tier in PRODUCTION})
    assert patch_order({"dev1": said(["openssl"])}, everything, ["dev1"], False) == ["dev1"]


def test_what_is_left_is_told():
    hosts = {"db1": said(reboot=["linux-image-6.12"]), "db2": said(kept=["nginx"]), "db3": said()}
    assert patch_leftovers(hosts) == [
        "db1 needs a reboot for linux-image-6.12: -e patch_reboot=true allows it",
        "db2: apt keeps back nginx: look there, apt full-upgrade --dry-run",
    ]


def test_the_last_host_of_a_site_is_known():
    pool = {
        "gazette": {"web1": {"state": "up"}, "web2": {"state": "drained"}},
        "newsroom": {"web1": {"state": "up"}, "web2": {"state": "up"}},
    }
    assert sites_only_here(json.dumps(pool), "web1") == ["gazette"]
    assert sites_only_here(json.dumps(pool), "web2") == []


def test_every_step_is_there_and_every_tier_is_awaited():
    """Roles that a loop names are looked for by nobody before a run gets there."""
    plays = yaml.safe_load((ROOT / "playbooks/patch.yml").read_text())
    play = next(play for play in plays if play.get("hosts") == "to_patch")
    assert (play["serial"], play["max_fail_percentage"]) == (1, 0)
    steps = {task["name"]: task["loop"] for task in play["tasks"][0]["block"] if "loop" in task}
    for loop in steps.values():
        for step in loop:
            assert (ROOT / "roles" / step["role"] / "tasks" / f"{step['tasks']}.yml").is_file(), step
    awaited = {step["tier"] for step in steps["Wait until it is healthy, and come back"]}
    assert awaited - {"vip", "perlbal"} == set(yaml.safe_load((ROOT / "group_vars/all/hosts.yml").read_text())["tiers"])
