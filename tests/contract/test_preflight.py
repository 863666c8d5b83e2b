"""Bad input is answered before any host is touched, in one sentence: the file, the variable and the remedy."""

from __future__ import annotations

import copy

import preflight
import pytest
import yaml
from environments import ROOT

from tools import secrets

FILE = "inventories/production/group_vars/all/sites.yml"


class Inventory:
    """The example production inventory, to be broken."""

    def __init__(self):
        inventory = yaml.safe_load((ROOT / "inventories/production/hosts.yml").read_text())["all"]["children"]
        self.groups = {tier: list(group["hosts"]) for tier, group in inventory.items()}
        self.hosts = {name: dict(host) for group in inventory.values() for name, host in group["hosts"].items()}
        folder = ROOT / "inventories/production/group_vars/all"
        self.common = {
            k: v for f in ("main", "sites") for k, v in yaml.safe_load((folder / f"{f}.yml").read_text()).items()
        }
        self.common |= yaml.safe_load((ROOT / "group_vars/all/sites.yml").read_text())
        self.common |= dict.fromkeys(secrets.names(), "x") | {"env_name": "production", "certificates_source": "ca"}
        self.common = copy.deepcopy(self.common)
        self.site = self.common["sites"]["newsroom"]

    def problems(self) -> list[str]:
        # No facts, and nothing that needs them: no host has been asked yet.
        hostvars = {name: host | self.common for name, host in self.hosts.items()}
        return preflight.preflight_problems(self.groups | {"all": list(self.hosts)}, hostvars)


def test_the_example_inventory_has_no_problem():
    assert Inventory().problems() == []


def empty_tier(inventory):
    inventory.groups["cache"] = []


def two_databases(inventory):
    inventory.groups["db"].pop()


def same_address(inventory):
    inventory.hosts["web2"]["ansible_host"] = inventory.hosts["web1"]["ansible_host"]


def no_secrets(inventory):
    for name in secrets.names():
        del inventory.common[name]


def misspelt_key(inventory):
    inventory.site["domain"] = ["x.example.com"]


def no_domains(inventory):
    del inventory.site["domains"]


def no_settings_module(inventory):
    del inventory.site["settings_module"]


def bad_domain(inventory):
    inventory.site["domains"] = ["https://news.example.com/"]


def shared_domain(inventory):
    inventory.common["sites"]["gazette"]["domains"] = [inventory.site["domains"][0]]


def shared_port(inventory):
    inventory.site["port"] = inventory.common["sites"]["gazette"]["port"] = 8200


def bad_name(inventory):
    inventory.common["sites"]["The News"] = inventory.site


def no_sites(inventory):
    inventory.common["sites"] = {}


def a_list(inventory):
    inventory.common["sites"]["newsroom"] = ["x"]


def no_folder(inventory):
    inventory.site["source"] = {"path": "examples/nowhere"}


def no_certificate(inventory):
    inventory.common["certificates_source"] = "files"
    inventory.common["inventory_dir"] = "/nonexistent"


def bad_certificates_source(inventory):
    inventory.common["certificates_source"] = "acme"


CASES = [
    (empty_tier, "inventories/production/hosts.yml: the tier cache has no host: name at least one."),
    (
        two_databases,
        "inventories/production/hosts.yml: db has 2 hosts, which cannot form a majority: name 1, 3 or more.",
    ),
    (same_address, "web1 and web2 have the same ansible_host, web1.production.example.com: give each its own."),
    (no_secrets, f"is not set (nor are {len(secrets.names()) - 1} more): run make secrets ENV=production."),
    (misspelt_key, f"{FILE}: sites.newsroom.domain is not a key of a site: did you mean domains?"),
    (no_domains, f"{FILE}: sites.newsroom.domains is missing: set it."),
    (no_settings_module, f"{FILE}: sites.newsroom.settings_module is missing: set it."),
    (bad_domain, f"{FILE}: sites.newsroom.domains: 'https://news.example.com/' is not a host name."),
    (shared_domain, "the domain newsroom.production.example.com is gazette's already: set another."),
    (shared_port, f"{FILE}: sites.newsroom.port: the port 8200 is gazette's already: set another."),
    (bad_name, f"{FILE}: sites.The News: a site's name is small letters, digits and dashes, 31 at most."),
    (no_sites, f"{FILE}: sites names no site: see docs/sites.md."),
    (a_list, f"{FILE}: sites.newsroom is not a mapping: give it source, domains and settings_module."),
    (no_folder, f"{FILE}: sites.newsroom.source.path: there is no folder examples/nowhere."),
    (no_certificate, "/nonexistent/certificates/gazette.crt"),
    (bad_certificates_source, "certificates_source is 'acme': set it to ca or files."),
]


@pytest.mark.parametrize(("breaks", "sentence"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_fault_is_named_in_one_sentence(breaks, sentence):
    inventory = Inventory()
    breaks(inventory)
    problems = inventory.problems()
    assert problems and sentence in problems[0], problems
    assert "\n" not in problems[0]
