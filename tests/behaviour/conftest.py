"""What the behaviour tests share: the environment under test, its hosts, and the front door."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import requests
import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins/filter")]

import trestle  # noqa: E402

from lab import containers  # noqa: E402
from lab import front as front_door  # noqa: E402
from lab.__main__ import tiers_of  # noqa: E402

ENV = os.environ.get("ENV", "production")
TIERS = tiers_of(ENV)


def hosts_of(tier: str) -> list[str]:
    return [name for name, tiers in TIERS.items() if tier in tiers]


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
