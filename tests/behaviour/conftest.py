"""What the behaviour tests share: the environment under test, its hosts, and the front door."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins/filter")]

import runs  # noqa: E402
import trestle  # noqa: E402

from lab import containers  # noqa: E402
from lab import front as front_door  # noqa: E402
from lab.__main__ import tiers_of  # noqa: E402

ENV = os.environ.get("ENV", "production")
TIERS = tiers_of(ENV)
# What takes long is for `make test-all`, which sets this.
LONG = os.environ.get("TRESTLE_LONG") == "all"
long = pytest.mark.skipif(not LONG, reason="it takes minutes: TRESTLE_LONG=all")

# Within so many seconds the sites are served again, whichever hosts are lost.
FAILOVER_SECONDS = 90


def hosts_of(tier: str) -> list[str]:
    return [name for name, tiers in TIERS.items() if tier in tiers]


def is_spare(tier: str) -> bool:
    """Whether the tier goes on without one of its hosts, which carry no other tier."""
    hosts = hosts_of(tier)
    return len(hosts) > (2 if tier == "db" else 1) and all(TIERS[name] == [tier] for name in hosts)


@pytest.fixture(scope="session")
def lab() -> containers.Lab:
    return containers.Lab(ENV)


@pytest.fixture(scope="session")
def host(lab):
    """host("web1"): the testinfra host of that name, over the SSH that Ansible uses."""
    found = lab.containers()
    known: dict[str, testinfra.host.Host] = {}

    def get(name: str) -> testinfra.host.Host:
        if name not in known:
            options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
            known[name] = testinfra.get_host(
                f"ssh://root@{lab.address(found[name])}",
                ssh_identity_file=str(lab.key),
                ssh_extra_args=f"{options} -o ControlMaster=auto -o ControlPath=/tmp/tt-%C -o ControlPersist=60s",
            )
        return known[name]

    return get


@dataclass(frozen=True)
class Replacement:
    """Hosts that were replaced by blank ones, others that were down, and the run that restored the former."""

    hosts: list[str]
    down: list[str]
    code: int
    output: str
    # The processes and the visitors that were seen meanwhile.
    command_lines: set[bytes]
    visitor: runs.Visitor


@pytest.fixture(scope="session")
def replacement(lab, front, url) -> Replacement:
    """A web host, the leader of the databases and a media host, lost with their disks; three others are just down."""
    if not all(map(is_spare, ("web", "db", "media", "lb", "cache"))):
        pytest.skip("this environment cannot spare a host of each tier")
    found = lab.containers()
    said = found[hosts_of("db")[0]].exec_run(["patronictl", "-c", "/etc/patroni/config.yml", "list", "-f", "json"])
    leader = next(member["Member"] for member in json.loads(said.output) if member["Role"] == "Leader")
    hosts = [hosts_of("web")[-1], leader, hosts_of("media")[-1]]
    # One of them accepts connections and never answers.
    hung = hosts_of("cache")[-1]
    down = [hosts_of("lb")[-1], hosts_of("monitor")[-1], hung]
    for name in hosts:
        found[name].remove(force=True, v=True)
    lab.up(TIERS)
    # The last of them has not even Python and sudo.
    bare = "SUDO_FORCE_REMOVE=yes apt-get -q -y remove python3-minimal sudo"
    done = lab.containers()[hosts[-1]].exec_run(["sh", "-c", bare])
    assert done.exit_code == 0, done.output
    for name in down:
        lab.freeze(found[name]) if name == hung else found[name].kill()
    try:
        assert runs.wait(FAILOVER_SECONDS, lambda: runs.steady(front, url)), f"not served without {hosts} and {down}"
        with runs.ProcessLists() as processes, runs.Visitor(front, url) as visitor:
            done = runs.ansible_playbook(ENV, "site.yml", "-vvv", "--diff")
    finally:
        lab.up(TIERS)
    (lab.folder / "replacement.log").write_text(done.stdout)
    return Replacement(hosts, down, done.returncode, done.stdout, processes.seen, visitor)


@pytest.fixture(scope="session")
def settings() -> dict:
    """The environment's own variables: inventories/<env>/group_vars/all/{main,sites}.yml."""
    folder = ROOT / "inventories" / ENV / "group_vars/all"
    return {k: v for f in ("main.yml", "sites.yml") for k, v in yaml.safe_load((folder / f).read_text()).items()}


class Front:
    """A browser at the front door: names resolve to the floating address, certificates to the environment's CA."""

    def __init__(self, address: str, ca_file: Path):
        self.address, self.ca_file = address, ca_file

    def session(self, address: str | None = None) -> requests.Session:
        """A session whose requests all go to ``address`` (by default the front), whatever name the URL has."""
        return front_door.session(address or self.address, self.ca_file)


@pytest.fixture(scope="session")
def front(lab) -> Front:
    return Front(lab.front_address(), lab.ca_file)


@pytest.fixture(scope="session")
def services() -> list[dict]:
    """The table of services."""
    return yaml.safe_load((ROOT / "group_vars/all/services.yml").read_text())["services"]


@pytest.fixture(scope="session")
def sites(settings) -> list[dict]:
    """Every site's entry with its name and port."""
    return [{"name": name, "port": trestle.site_port(name)} | site for name, site in settings["sites"].items()]


@pytest.fixture(scope="session")
def url(sites) -> str:
    """The first site's first page."""
    return f"https://{sites[0]['domains'][0]}/"
