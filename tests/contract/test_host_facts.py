"""The facts of a host, as one command tells them (plugins/action/host_facts.py)."""

import json
import os
import subprocess

import pytest
from test_hosts_down import load

plugin = load("plugins/action/host_facts.py")

WAY = [{"dst": "192.0.2.1", "gateway": "198.51.100.1", "dev": "eth0", "prefsrc": "198.51.100.7", "flags": []}]
INTERFACES = [
    {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]},
    {
        "ifname": "eth0",
        "addr_info": [
            {"family": "inet", "local": "198.51.100.7", "prefixlen": 24, "scope": "global"},
            {"family": "inet", "local": "198.51.100.9", "prefixlen": 32, "scope": "global"},
        ],
    },
    {},
]
DISKS = "/dev/sda1 100 60 40 60% /\n/dev/sdb1 100 60 2000000 60% /srv of this\n"


def said(way=WAY, system="debian 13", greeting="", disks=DISKS) -> str:
    parts = [system, "4034892\n4", json.dumps(way), json.dumps(INTERFACES), disks]
    return greeting + "".join(f"{plugin.MARK}\n{part}\n" for part in parts)


def test_they_have_the_names_that_ansible_gives_them():
    assert plugin.facts(said(greeting="Welcome to web1!\n")) == {
        "distribution": "Debian",
        "distribution_version": "13",
        "distribution_major_version": "13",
        "memtotal_mb": 3940,
        "processor_vcpus": 4,
        "default_ipv4": {"address": "198.51.100.7", "interface": "eth0", "gateway": "198.51.100.1"},
        "all_ipv4_addresses": ["198.51.100.7", "198.51.100.9"],
        "mounts": [
            {"mount": "/", "size_available": 40 * 1024},
            {"mount": "/srv of this", "size_available": 2_000_000 * 1024},
        ],
    }


def test_a_host_without_a_way_out_has_no_address_of_its_own():
    assert plugin.facts(said(way=[]))["default_ipv4"] == {}
    assert plugin.facts(said(way=[{"dev": "eth0", "prefsrc": "198.51.100.7"}]))["default_ipv4"] == {
        "address": "198.51.100.7",
        "interface": "eth0",
    }


@pytest.mark.parametrize(
    ("system", "name", "version", "major"),
    [("ubuntu 24.04", "Ubuntu", "24.04", "24"), ("debian", "Debian", "", "")],
)
def test_another_system_is_told_by_its_name(system, name, version, major):
    found = plugin.facts(said(system=system))
    keys = ("distribution", "distribution_version", "distribution_major_version")
    assert tuple(found[key] for key in keys) == (name, version, major)


def test_the_command_says_so_of_this_machine():
    done = subprocess.run(["sh", "-c", plugin.PROBE], capture_output=True, text=True, check=True)
    found = plugin.facts(done.stdout)
    assert found["processor_vcpus"] == os.sysconf("SC_NPROCESSORS_ONLN")
    assert found["memtotal_mb"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024**2
    assert found["distribution"] and all(mount["size_available"] >= 0 for mount in found["mounts"])


def test_a_host_without_python_is_told_so():
    probe = plugin.PROBE.replace("/usr/bin/python3", "/nowhere/python3")
    done = subprocess.run(["sh", "-c", probe], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip() == "There is no /nowhere/python3."
