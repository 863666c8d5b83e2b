"""Bad input is answered before any host is touched, in one sentence: the file, the variable and the remedy."""

from __future__ import annotations

import datetime
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import preflight
import pytest
import yaml
from ansible._internal._datatag._tags import Origin
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.template import trust_as_template
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from environments import REAL, ROOT, vault

from plugins.filter.trestle import site_port
from plugins.preflight import formats, machines, sites, sources
from plugins.preflight.inventory import dotted
from tools import secrets

FILES = {
    "hosts": "hosts.yml",
    "main": "group_vars/all/main.yml",
    "sites": "group_vars/all/sites.yml",
    "web": "group_vars/web.yml",
    "webs": "group_vars/webs.yml",
    "host": "host_vars/web2.yml",
}
HOSTS, MAIN, SITES = (f"production/{FILES[name]}" for name in ("hosts", "main", "sites"))
DELETED = object()


class Copy:
    """A copy of the production inventory, to be broken."""

    def __init__(self, folder: Path):
        self.folder = folder / "production"
        shutil.copytree(ROOT / "inventories/production", self.folder)
        self.extra = dict(vault("production"))
        self.set("main/certificates_source", "ca")

    def set(self, place: str, value) -> None:
        """Change what is at a place such as sites/newsroom/domains: the file, then the keys in it."""
        name, *keys = place.split("/")
        roots = {"hosts": ["all", "children"], "sites": ["sites"]}
        file = self.folder / FILES[name]
        content = node = yaml.safe_load(file.read_text()) if file.is_file() else {}
        *path, last = roots.get(name, []) + keys
        for key in path:
            node = node.setdefault(key, {})
        if value is DELETED:
            del node[last]
        else:
            node[last] = value
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(content, sort_keys=False))

    def problems(self, tag: str = "all") -> list[str]:
        """What preflight says, without the lines' numbers and this copy's place."""
        loader = DataLoader()
        loader.set_basedir(str(ROOT / "playbooks"))
        inventory = InventoryManager(loader, sources=[str(self.folder)])
        variables = VariableManager(loader, inventory)
        given = Origin(description="<CLI option '-e'>")
        variables._extra_vars = {given.tag(name): trust_as_template(value) for name, value in self.extra.items()}
        variables._options_vars = {"ansible_run_tags": (tag,)}
        said = preflight.preflight_problems(inventory.get_groups_dict(), HostVars(inventory, variables, loader))
        assert not [problem for problem in said if "\n" in problem]
        said = [re.sub(r"(\.yml):\d+:", r"\1:", problem) for problem in said]
        return [re.sub(rf"(^| ){self.folder.parent}/", r"\1", problem) for problem in said]


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


@pytest.mark.parametrize("name", REAL)
def test_the_example_inventories_have_no_problem(tmp_path, name):
    copy = Copy(tmp_path)
    for file in ("hosts.yml", "group_vars/all/main.yml", "group_vars/all/sites.yml"):
        shutil.copy(ROOT / "inventories" / name / file, copy.folder / file)
    copy.extra["certificates_source"] = "ca"
    assert copy.problems() == []


def test_preflight_of_thirteen_hosts_takes_a_moment(copy):
    before = time.process_time()
    copy.problems()
    assert time.process_time() - before < 2


def site(key: str) -> str:
    return f"{SITES}: sites.newsroom.{key}"


WORKER = {"name": "worker", "command": "celery -A shop worker"}
GUNICORN = {"name": "gunicorn"}

# What is changed, and what is said.
CASES = [
    # Hosts and groups.
    ("hosts/cache/hosts", {}, f"{HOSTS}: the tier cache has no host: name at least one."),
    ("hosts/cache", DELETED, f"{HOSTS}: the tier cache has no host: name at least one."),
    (
        "hosts/db/hosts/db3",
        DELETED,
        f"{HOSTS}: the tier db has 2 hosts, which as etcd members survive no more losses than 1: name 1, 3 or 5.",
    ),
    (
        "hosts/db/hosts/db4",
        {"ansible_host": "db4.example.com"},
        f"{HOSTS}: the tier db has 4 hosts, which as etcd members survive no more losses than 3: name 1, 3 or 5.",
    ),
    ("hosts/webs", {"hosts": {"web1": {}}}, f"{HOSTS}: the group webs is not a tier: did you mean web?"),
    (
        "hosts/europe",
        {"hosts": {"web9": {"ansible_host": "web9.example.com"}}},
        f"{HOSTS}: the host web9 is in no tier: name it in one, or delete it.",
    ),
    (
        "hosts/web/hosts/cache",
        {"ansible_host": "web4.example.com"},
        f"{HOSTS}: cache is a host and a group: rename the host.",
    ),
    (
        "hosts/web/hosts/WEB1",
        {"ansible_host": "web4.example.com"},
        f"{HOSTS}: the hosts web1 and WEB1 differ in case only: rename one.",
    ),
    (
        "hosts/web/hosts/web2/ansible_host",
        "web1.production.example.com",
        f"{HOSTS}: web1 and web2 have the same ansible_host, web1.production.example.com: give each its own.",
    ),
    ("hosts/web/hosts/web2/address", "web2", f"{HOSTS}: address is 'web2': write an IPv4 address."),
    (
        "main/lb_vip",
        "web1.production.example.com",
        f"{MAIN}: lb_vip is the address of web1: name one that no host has.",
    ),
    # Variables' names.
    ("main/lb_vipp", "www.example.com", f"{MAIN}: lb_vipp is not a variable: did you mean lb_vip?"),
    (
        "main/gunicorn_keepalive_second",
        75,
        f"{MAIN}: gunicorn_keepalive_second is not a variable: did you mean gunicorn_keepalive_seconds?",
    ),
    (
        "web/gunicorn_backlogs",
        75,
        "production/group_vars/web.yml: gunicorn_backlogs is not a variable: did you mean gunicorn_backlog?",
    ),
    (
        "host/nginx_gzip",
        True,
        "production/host_vars/web2.yml: nginx_gzip is not a variable: did you mean nginx_gzip_types?",
    ),
    (
        "hosts/web/hosts/web2/adress",
        "web2",
        f"{HOSTS}: adress is not a variable: did you mean address?",
    ),
    (
        "main/lb_vip",
        DELETED,
        f"{MAIN}: lb_vip is missing: set it. The floating address, or a name that resolves to it.",
    ),
    ("webs/x", 1, "production/group_vars/webs.yml: there is no group webs: did you mean web?"),
    # Variables' values.
    ("main/lb_engine", "perlball", f"{MAIN}: lb_engine is 'perlball': did you mean perlbal?"),
    ("main/certificates_source", "acme", f"{MAIN}: certificates_source is 'acme': known are ca, files."),
    ("main/certificates_source", "file", f"{MAIN}: certificates_source is 'file': did you mean files?"),
    (
        "main/gunicorn_keepalive_seconds",
        "75s",
        f"{MAIN}: gunicorn_keepalive_seconds is '75s': write a whole number of seconds, without a unit.",
    ),
    ("main/gunicorn_start_seconds", -3, f"{MAIN}: gunicorn_start_seconds is '-3': write 0 or more."),
    ("main/keepalived_router_id", 300, f"{MAIN}: keepalived_router_id is '300': write a number from 1 to 255."),
    (
        "main/postgresql_memory_mb",
        "4 GB",
        f"{MAIN}: postgresql_memory_mb is '4 GB': write a whole number of megabytes, without a unit.",
    ),
    (
        "main/mail_swallow",
        "yes",
        f"{MAIN}: mail_swallow is 'yes': write true or false, without quotes.",
    ),
    ("main/postgresql_parameters", ["work_mem"], f"{MAIN}: postgresql_parameters is a list: write a mapping."),
    ("main/base_packages", "vim", f"{MAIN}: base_packages is 'vim': write a list."),
    (
        "main/memcached_max_item_size",
        "2MB",
        f"{MAIN}: memcached_max_item_size is '2MB': write a number followed by k, m or g, as in 100m.",
    ),
    ("main/domain", "example", f"{MAIN}: domain is 'example': write a host name, as in www.example.com."),
    ("main/mail_admin", None, f"{MAIN}: mail_admin is empty: write text, in quotes."),
    (
        "main/mail_smarthost",
        "",
        f"{MAIN}: mail_smarthost is empty: name the host that mail leaves through, or set mail_swallow: true.",
    ),
    (
        "main/mail_smarthost",
        "smtp://example.com",
        f"{MAIN}: mail_smarthost is 'smtp://example.com': write a host, or host:port.",
    ),
    (
        "main/ssh_permit_root_login",
        False,
        f"{MAIN}: ssh_permit_root_login is false: "
        "write text, in quotes, one of no, prohibit-password, forced-commands-only.",
    ),
    (
        "main/admin_networks",
        ["198.51.100.0/24", "198.51.100.7/24"],
        f"{MAIN}: admin_networks[1] is '198.51.100.7/24': write a network, as in 198.51.100.0/24.",
    ),
    (
        "main/base_users",
        [{"name": "ada", "key": "x"}],
        f"{MAIN}: base_users[0].key is not a key of base_users: did you mean keys?",
    ),
    (
        "main/lb_vip",
        "{{ nothing }}",
        f"{MAIN}: lb_vip cannot be templated ('nothing' is undefined): correct the expression.",
    ),
    ("main/base_users", [{"name": "ada", "keys": "x"}], f"{MAIN}: base_users[0].keys is not right: write a list."),
    # Sites.
    ("sites", ["newsroom"], f"{SITES}: sites is a list: write a mapping."),
    ("sites", {}, f"{SITES}: sites names no site: see docs/sites.md."),
    (
        "sites/newsroom",
        ["x"],
        f"{SITES}: sites.newsroom is not a mapping: give it source, domains and settings_module.",
    ),
    (
        "sites/The News",
        {"domains": ["x.example.com"]},
        f"{SITES}: sites.The News is no name for a site: write small letters, digits and dashes, 31 at most.",
    ),
    ("sites/newsroom/domain", ["x.example.com"], f"{site('domain')} is not a key of newsroom: did you mean domains?"),
    ("sites/newsroom/domains", DELETED, f"{site('domains')} is missing: set it."),
    ("sites/newsroom/domains", [], f"{site('domains')} is empty: name one domain at least."),
    ("sites/newsroom/domains", "news.example.com", f"{site('domains')} is 'news.example.com': write a list."),
    (
        "sites/newsroom/domains",
        ["https://news.example.com/"],
        f"{site('domains[0]')} is 'https://news.example.com/': write a host name, as in www.example.com.",
    ),
    (
        "sites/newsroom/domains",
        ["news.example.com", "news.example.com"],
        f"{site('domains')} names news.example.com 2 times: once is enough.",
    ),
    (
        "sites/newsroom/domains",
        ["gazette.production.example.com"],
        f"{site('domains')} has the domain gazette.production.example.com, which is gazette's: set another.",
    ),
    (
        "sites/newsroom/domains",
        ["monitor.production.example.com"],
        f"{site('domains')} has the domain monitor.production.example.com, which is monitor_domain's: set another.",
    ),
    (
        "sites/newsroom/domains",
        ["{{ nothing }}.example.com"],
        f"{site('domains[0]')} cannot be templated ('nothing' is undefined): correct the expression.",
    ),
    (
        "sites/newsroom/settings_module",
        DELETED,
        f"{site('settings_module')} is missing: set it, as in newsroom.settings.",
    ),
    (
        "sites/newsroom/settings_module",
        "newsroom/settings.py",
        f"{site('settings_module')} is 'newsroom/settings.py': write a Python module, as in shop.settings.",
    ),
    (
        "sites/plain",
        {"source": {"path": "examples"}, "domains": ["plain.example.com"], "app_type": "wsgi"},
        f"{SITES}: sites.plain.wsgi_module is missing: set it, as in plain.wsgi:application.",
    ),
    ("sites/newsroom/app_type", "flask", f"{site('app_type')} is 'flask': known are django, wsgi."),
    ("sites/newsroom/environment", ["A=1"], f"{site('environment')} is a list: write a mapping."),
    (
        "sites/newsroom/environment",
        {"EDITOR-NAME": "x"},
        f"{site('environment.EDITOR-NAME')} is no name of an environment variable: write letters, digits and _.",
    ),
    (
        "sites/newsroom/environment",
        {"HOSTS": ["a", "b"]},
        f"{site('environment.HOSTS')} is not text: write one value in quotes.",
    ),
    (
        "sites/newsroom/max_body_size",
        "100 MB",
        f"{site('max_body_size')} is '100 MB': write a number followed by k, m or g, as in 100m.",
    ),
    ("sites/newsroom/port", 80800, f"{site('port')} is '80800': write a port from 1 to 65535."),
    ("sites/newsroom/port", 8008, f"{site('port')} has the port 8008, which is the service patroni's: set another."),
    (
        "sites/gazette/port",
        site_port("newsroom"),
        f"{site('port')} has the port {site_port('newsroom')}, which is gazette's: set another.",
    ),
    ("sites/newsroom/user", "postgres", f"{site('user')} has the user postgres, which is the system's: set another."),
    ("sites/newsroom/user", "gazette", f"{site('user')} has the user gazette, which is gazette's: set another."),
    (
        "sites/newsroom/database",
        "gazette",
        f"{site('database')} has the database gazette, which is gazette's: set another.",
    ),
    (
        "sites/newsroom/cache_prefix",
        "gazette",
        f"{site('cache_prefix')} has the cache prefix gazette, which is gazette's: set another.",
    ),
    (
        "sites/newsroom/secret_key",
        "changeme",
        f"{site('secret_key')} is a sample's value: delete it, and one is derived.",
    ),
    ("sites/newsroom/pages", "pages", f"{site('pages')} names pages, and there is no such folder: correct it."),
    (
        "sites/newsroom/allow_unsafe_migrations",
        ["0007_drop_title"],
        f"{site('allow_unsafe_migrations[0]')} is '0007_drop_title': write app.migration, as in news.0007_drop_title.",
    ),
    ("sites/newsroom/after_migrate", [{"seed": 1}], f"{site('after_migrate[0]')} is a mapping: write text, in quotes."),
    (
        "sites/newsroom/makemigrations_check",
        "no",
        f"{site('makemigrations_check')} is 'no': write true or false, without quotes.",
    ),
    # Sources.
    ("sites/newsroom/source", DELETED, f"{site('source')} is missing: set it."),
    ("sites/newsroom/source", "examples/newsroom", f"{site('source')} is 'examples/newsroom': write a mapping."),
    (
        "sites/newsroom/source",
        {"path": "examples/nowhere"},
        f"{site('source.path')} names examples/nowhere, and there is no such folder: correct it.",
    ),
    (
        "sites/newsroom/source",
        {"paht": "examples/newsroom"},
        f"{site('source.paht')} is not a key of source: did you mean path?",
    ),
    (
        "sites/newsroom/source",
        {"version": "v1"},
        f"{site('source')} names none of path, git, pypi: name one.",
    ),
    (
        "sites/newsroom/source",
        {"path": "examples/newsroom", "pypi": "news==1.0"},
        f"{site('source')} names path and pypi of path, git, pypi: name one.",
    ),
    (
        "sites/newsroom/source",
        {"path": "examples/newsroom", "version": "v1"},
        f"{site('source.version')} belongs to a git source, and this is a path: delete it.",
    ),
    (
        "sites/newsroom/source",
        {"pypi": "news 1.0"},
        f"{site('source.pypi')} is 'news 1.0': write a requirement, as in name==1.0.",
    ),
    (
        "sites/newsroom/source",
        {"pypi": "news>=1.0"},
        f"{site('source.pypi')} is 'news>=1.0', which is no one version: write news==<version>.",
    ),
    (
        "sites/newsroom/source",
        {"git": "ssh://git@example.com/news.git", "deploy_key": "~/.ssh/id_ed25519"},
        f"{site('source.deploy_key')} is not a private key: "
        "write its text, from -----BEGIN to END-----, encrypted with ansible-vault.",
    ),
]


@pytest.mark.parametrize(("place", "value", "sentence"), CASES)
def test_a_fault_is_named_in_one_sentence(copy, place, value, sentence):
    copy.set(place, value)
    assert copy.problems() == [sentence]


def test_a_host_of_the_group_build_needs_no_tier(copy):
    copy.set("hosts/build", {"hosts": {"build1": {"ansible_host": "build1.example.com"}}})
    assert copy.problems() == []


@pytest.mark.parametrize("name", ["ansible_host", "address"])
def test_hosts_with_one_address_are_named(copy, name):
    for host in ("web1", "web2"):
        copy.set(f"hosts/web/hosts/{host}/{name}", "192.0.2.7")
    assert copy.problems() == [f"{HOSTS}: web1 and web2 have the same {name}, 192.0.2.7: give each its own."]


def test_a_floating_address_that_is_a_host_s_address_is_named(copy):
    copy.set("hosts/lb/hosts/lb1/address", "192.0.2.7")
    copy.set("main/lb_vip", "192.0.2.7")
    assert copy.problems() == [f"{MAIN}: lb_vip is the address of lb1: name one that no host has."]


# Lists and mappings within an entry: what one holds, and what is said of it.
ENTRIES = [
    ("programs", [], "programs", "has no gunicorn: add {name: gunicorn}."),
    ("programs", {"name": "gunicorn"}, "programs", "is a mapping: write a list."),
    ("programs", [WORKER], "programs", "has no gunicorn: add {name: gunicorn}."),
    (
        "programs",
        [GUNICORN, WORKER, WORKER],
        "programs",
        "names worker 2 times: give each a name of its own, or set its count.",
    ),
    ("programs", [GUNICORN, {"name": "worker"}], "programs[1].command", "is missing: say what worker runs."),
    ("programs", [GUNICORN | {"once": True}], "programs[0].once", "is not for gunicorn: delete it."),
    ("programs", [GUNICORN, WORKER | {"threads": 2}], "programs[1].threads", "is only for gunicorn: delete it."),
    (
        "programs",
        [GUNICORN, WORKER | {"once": True, "count": 2}],
        "programs[1].count",
        "is more than one of a program with once: delete one of the two.",
    ),
    ("programs", [GUNICORN, {"command": "x"}], "programs[1].name", "is missing: set it."),
    (
        "programs",
        [GUNICORN, WORKER | {"comand": "x"}],
        "programs[1].comand",
        "is not a key of programs: did you mean command?",
    ),
    ("programs", [GUNICORN, WORKER | {"count": 0}], "programs[1].count", "is '0': write 1 or more."),
    (
        "programs",
        [GUNICORN, WORKER | {"stop_signal": "SIGTERM"}],
        "programs[1].stop_signal",
        "is 'SIGTERM': did you mean TERM?",
    ),
    (
        "programs",
        [GUNICORN, WORKER | {"memory_limit": "half"}],
        "programs[1].memory_limit",
        "is 'half': write a number followed by k, m or g, as in 100m.",
    ),
    (
        "programs",
        [GUNICORN, WORKER | {"stop_wait_seconds": "1m"}],
        "programs[1].stop_wait_seconds",
        "is '1m': write a whole number of seconds, without a unit.",
    ),
    (
        "programs",
        [GUNICORN, WORKER | {"once": "no"}],
        "programs[1].once",
        "is 'no': write true or false, without quotes.",
    ),
    ("node", {"folder": "web", "commands": "npm ci"}, "node.commands", "is 'npm ci': write a list."),
    ("node", {"command": ["npm ci"]}, "node.command", "is not a key of node: did you mean commands?"),
    ("source", {"git": "x", "version": 1.1}, "source.version", "is '1.1': write text, in quotes."),
    ("python_packages", ["celery 5"], "python_packages[0]", "is 'celery 5': write a requirement, as in name==1.0."),
    ("build_packages", ["libpq-dev", "a b"], "build_packages[1]", "is 'a b': write the name of a Debian package."),
    ("system_packages", "libvips42", "system_packages", "is 'libvips42': write a list."),
    ("index_url", "pypi", "index_url", "is not right: write an address that begins with https://."),
    (
        "extra_index_urls",
        ["ftp://x"],
        "extra_index_urls[0]",
        "is not right: write an address that begins with https://.",
    ),
    ("media_storage", "S3", "media_storage", "is 'S3': known are media, s3."),
    (
        "media_storage",
        "s3",
        "s3",
        "is missing: media_storage is s3, so give it bucket, access_key and secret_key.",
    ),
    ("s3", {"bucket": "a", "access_key": "b"}, "s3.secret_key", "is missing: set it."),
    (
        "check_fail_level",
        "WARN",
        "check_fail_level",
        "is 'WARN': did you mean WARNING?",
    ),
]


@pytest.mark.parametrize(("key", "value", "place", "text"), ENTRIES)
def test_a_fault_within_an_entry_is_named(key, value, place, text):
    least = {"source": {"path": "examples/newsroom"}, "domains": ["a.example.com"], "settings_module": "a.settings"}
    found = list(sites.entry("newsroom", least | {key: value}, sites.documented()))
    assert [(dotted(path[1:]), said) for path, said in found] == [(place, text)]


# By the name of a variable: what it may hold, and what not.
FORMATS = {
    "lb_vip": (["", "192.0.2.7", "www.example.com"], ["192.0.2.300", "www example", "https://example.com"]),
    "mail_smarthost": (["", "smtp.example.com", "smtp.example.com:587", "192.0.2.7:25"], ["a b", "smtp.example.com:x"]),
    "mail_admin": (["root", "ops@example.com"], ["ops@", "a@example.com, b@example.com"]),
    "admins": (["ops@example.com", "Ada <ada@example.com>"], ["Ada ada@example.com", "Ada, <ada@example.com>"]),
    "admin_networks": (["198.51.100.0/24", "203.0.113.7/32"], ["198.51.100.7", "198.51.100.7/24", "2001:db8::/32"]),
    "domains": (["a.example.com", "xn--bcher-kva.example"], ["example", "A.example.com", "a_b.example.com", "a..com"]),
    "max_body_size": (["100m", "1G", "512"], ["100 m", "1.5g", "100mb", ""]),
    "port": ([1, "8100", 65535], [0, 65536]),
    "conn_max_age_seconds": ([0, 60, "1.5"], [-1]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_says_what_a_variable_may_hold(name):
    accepts, _ = formats.of({}, (name,))
    good, bad = FORMATS[name]
    assert [value for value in good if not accepts(value)] == []
    assert [value for value in bad if accepts(value)] == []


def test_what_is_said_of_keys_is_said_of_keys_that_there_are():
    defaults = yaml.safe_load((ROOT / "group_vars/all/sites.yml").read_text())["site_defaults"]
    assert sites.documented().keys() <= sites.specifications(defaults).keys()


def test_a_variable_that_is_the_user_s_own_affair_is_left_alone(copy):
    copy.set("main/newsletter_size", "{{ gunicorn_motto }}")
    copy.set("main/gunicorn_motto", "read by an expression")
    copy.set("main/postgresql_memory_mb", "{{ host_memory_mb | int // 4 }}")
    assert copy.problems() == []


def test_the_readme_s_entry_is_all_that_a_first_deployment_needs(copy):
    entry = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len(entry.strip().splitlines()) <= 5
    copy.set("sites", yaml.safe_load(entry)["sites"])
    assert copy.problems() == []


def test_variables_given_to_a_run_are_checked_too(copy):
    copy.extra |= {"gunicorn_start_second": "5", "gunicorn_log_days": "five", "rolling_batch": "2"}
    assert copy.problems() == [
        "-e: gunicorn_start_second is not a variable: did you mean gunicorn_start_seconds?",
        "-e: gunicorn_log_days is 'five': write a whole number of days, without a unit.",
    ]


# Secrets

VAULT = "production/group_vars/all/vault.yml"
MAKE = "run make secrets ENV=production"


def test_absent_secrets_are_one_sentence(copy):
    for name in secrets.names():
        del copy.extra[name]
    (problem,) = copy.problems()
    assert re.fullmatch(rf"{VAULT}: vault_\w+ is not set \(nor are {len(secrets.names()) - 1} more\): {MAKE}.", problem)


@pytest.mark.parametrize("name", secrets.names())
def test_a_secret_that_is_not_there_is_named(copy, name):
    del copy.extra[name]
    assert copy.problems() == [f"{VAULT}: {name} is not set: {MAKE}."]


@pytest.mark.parametrize(
    ("weak", "text"),
    [
        ("changeme", "is a sample's value"),
        ("your-secret-password-1", "is a sample's value"),
        ("xxxxxxxxxxxxxxxxxxxx", "is a sample's value"),
        ("", "is a sample's value"),
        ("q8Zr2LmT0w", "has fewer than 16 characters"),
        ("{{ [1, 2] }}", "is not text"),
    ],
)
def test_a_secret_that_is_a_sample_or_short_is_named(copy, weak, text):
    copy.extra["vault_monitor_password"] = weak
    assert copy.problems() == [f"-e: vault_monitor_password {text}: delete it and {MAKE}."]


def test_a_vault_without_its_password_is_one_sentence(copy):
    sealed = VaultLib([("default", VaultSecret(b"another password"))]).encrypt("0123456789abcdef").decode()
    for name in secrets.names():
        del copy.extra[name]
    lines = [f"{name}: !vault |\n" + textwrap.indent(sealed, "  ") for name in secrets.names()]
    (copy.folder / "group_vars/all/vault.yml").write_text("".join(lines))
    (problem,) = copy.problems()
    others = len(secrets.names()) - 1
    remedy = "write the vault's password into .vault-password."
    assert re.fullmatch(rf"{VAULT}: vault_\w+ cannot be decrypted \(nor can {others} more\): {remedy}", problem)


def test_a_user_s_own_secret_that_is_nowhere_is_named(copy):
    copy.set("sites/newsroom/environment", {"API": "{{ vault_api }}"})
    text = "cannot be templated ('vault_api' is undefined): correct the expression."
    assert copy.problems() == [f"{site('environment.API')} {text}"]


def test_a_secret_in_plain_text_is_refused_and_not_shown(copy):
    value = copy.extra.pop("vault_site_key")
    (copy.folder / "group_vars/all/vault.yml").write_text(f"vault_site_key: {value}\n")
    assert copy.problems() == [f"{VAULT}: vault_site_key is not encrypted: delete it and {MAKE}."]


# Certificates


def certificate(key, *domains: str, begins: int = -1, ends: int = 30) -> bytes:
    """A certificate in PEM, from so many days from now to so many days from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now + datetime.timedelta(days=begins))
    builder = builder.not_valid_after(now + datetime.timedelta(days=ends))
    if domains:
        names = x509.SubjectAlternativeName([x509.DNSName(domain) for domain in domains])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ALL = ("*.production.example.com",)
# Of the site newsroom: its certificate, its key, and what is said of them.
CERTIFICATES = {
    "fitting": (certificate(KEY, *ALL), pem(KEY), None),
    "not PEM": (b"oops", pem(KEY), "is not PEM: write it as -----BEGIN CERTIFICATE-----, its chain after it."),
    "a key that is not PEM": (
        certificate(KEY, *ALL),
        b"oops",
        "has a key that is not PEM, or has a passphrase: write it as -----BEGIN PRIVATE KEY----- without one.",
    ),
    "another's key": (
        certificate(KEY, *ALL),
        pem(OTHER),
        "does not match its key: put the two that belong together there.",
    ),
    "expired": (
        certificate(KEY, *ALL, begins=-9, ends=-2),
        pem(KEY),
        f"expired on {datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2):%Y-%m-%d}: renew it.",
    ),
    "of tomorrow": (
        certificate(KEY, *ALL, begins=2),
        pem(KEY),
        f"is not valid before {datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2):%Y-%m-%d}: "
        "wait, or set the clock.",
    ),
    "of no domain": (
        certificate(KEY),
        pem(KEY),
        "does not name newsroom.production.example.com: get one that does.",
    ),
    "of one domain only": (
        certificate(KEY, "newsroom.production.example.com"),
        pem(KEY),
        "does not name www.newsroom.production.example.com: get one that does.",
    ),
}


@pytest.mark.parametrize(("its_certificate", "its_key", "text"), CERTIFICATES.values(), ids=CERTIFICATES)
def test_certificates_from_files_must_fit(copy, its_certificate, its_key, text):
    domains = ["newsroom.production.example.com", "www.newsroom.production.example.com"]
    domains = domains if text and "www" in text else domains[:1]
    copy.set("sites/newsroom/domains", domains)
    copy.set("main/certificates_source", "files")
    folder = copy.folder / "certificates"
    folder.mkdir()
    for name in ("newsroom", "gazette", "monitor"):
        (folder / f"{name}.crt").write_bytes(certificate(KEY, *ALL))
        (folder / f"{name}.key").write_bytes(pem(KEY))
    (folder / "newsroom.crt").write_bytes(its_certificate)
    (folder / "newsroom.key").write_bytes(its_key)
    said = f"production/certificates/newsroom.crt: the certificate of newsroom {text}"
    assert copy.problems() == ([said] if text else [])


def test_certificate_files_that_are_not_there_are_one_sentence(copy):
    copy.set("main/certificates_source", "files")
    missing = "production/certificates/newsroom.crt (nor 5 more)"
    assert copy.problems() == [
        f"{MAIN}: certificates_source is files, and there is no {missing}: put it there, or write ca."
    ]


def test_an_authority_whose_key_is_another_s_is_named(copy):
    copy.extra["vault_certificates_ca_key"] = pem(OTHER).decode()
    text = "does not match its key: put the two that belong together there."
    assert copy.problems() == [f"-e: vault_certificates_ca_certificate {text}"]


# Repositories


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "news"
    folder.mkdir()
    commands = ["init -q -b main", "-c user.name=a -c user.email=a@example.com commit -q --allow-empty -m x", "tag v1"]
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    return f"file://{folder}"


@pytest.mark.parametrize("version", ["main", "v1", "refs/tags/v1", "0123abc"])
def test_a_version_that_is_in_the_repository_is_accepted(copy, repository, version):
    copy.set("sites/newsroom/source", {"git": repository, "version": version})
    assert copy.problems() == []


def test_a_version_that_is_not_in_the_repository_is_named(copy, repository):
    copy.set("sites/newsroom/source", {"git": repository, "version": "v2"})
    assert copy.problems() == [
        f"{site('source.version')} is v2, and {repository} has no such branch or tag: correct it."
    ]


def test_a_version_that_is_asked_for_is_checked_instead(copy, repository):
    copy.set("sites/newsroom/source", {"git": repository, "version": "gone"})
    copy.extra |= {"site": "newsroom", "release_version": "v1"}
    assert copy.problems() == []
    copy.extra["release_version"] = "v9"
    assert copy.problems() == [f"-e: release_version is v9, and {repository} has no such branch or tag: correct it."]
    del copy.extra["site"]
    assert copy.problems() == [
        "-e release_version=v9: This could mean gazette or newsroom: say which with -e site=gazette."
    ]
    copy.set("sites/newsroom/source", {"path": "examples/newsroom"})
    assert copy.problems() == [
        "-e: release_version is v9, and examples/newsroom is in no git work tree with that version: correct it."
    ]
    copy.extra["release_version"] = "HEAD"
    assert copy.problems() == []


def test_a_repository_that_is_not_there_is_named(copy, repository):
    copy.set("sites/newsroom/source", {"git": f"{repository}x"})
    (problem,) = copy.problems()
    assert problem.startswith(f"{site('source.git')} names {repository}x, which cannot be read (fatal: ")
    assert problem.endswith("): correct it, or its deploy_key.")


def test_a_repository_that_does_not_answer_is_named(copy, monkeypatch):
    monkeypatch.setattr(sources, "SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"git://127.0.0.1:{server.getsockname()[1]}/news.git"
        copy.set("sites/newsroom/source", {"git": url})
        text = f"names {url}, which does not answer within 1 s: correct it, or try again."
        assert copy.problems() == [f"{site('source.git')} {text}"]


def test_no_password_of_a_repository_is_shown(copy):
    copy.set("sites/newsroom/source", {"git": "https://ada:tr0ub4dor@localhost:1/news.git"})
    (problem,) = copy.problems()
    assert "names https://localhost:1/news.git, which cannot be read" in problem
    assert "tr0ub4dor" not in problem


def test_a_repository_that_is_away_stops_no_run_that_builds_nothing(copy, repository):
    copy.set("sites/newsroom/source", {"git": f"{repository}x"})
    assert copy.problems(tag="nginx") == []


# Machines


def test_a_controller_without_room_is_named(copy, monkeypatch):
    monkeypatch.setattr(machines, "CONTROLLER_FREE_MB", 10**9)
    (problem,) = copy.problems()
    assert re.fullmatch(
        r"artifact_cache is \S+, with \d+ MB of disk free: free 1000000000 MB on this machine.", problem
    )


def mounted(**free_mb: int) -> list[dict]:
    return [{"mount": f"/{name.strip('_')}", "size_available": free * 1_000_000} for name, free in free_mb.items()]


DEBIAN = {"distribution": "Debian", "distribution_version": "13.1", "distribution_major_version": "13"}


@pytest.mark.parametrize(
    ("facts", "problems"),
    [
        (DEBIAN | {"mounts": mounted(_=5000)}, []),
        (DEBIAN | {"mounts": []}, []),
        (DEBIAN | {"mounts": mounted(_=800)}, ["web1 has 800 MB of disk free on /: free 1000 MB."]),
        (DEBIAN | {"mounts": mounted(_=9000, var=30)}, ["web1 has 30 MB of disk free on /var: free 1000 MB."]),
        (DEBIAN | {"mounts": mounted(_=9000, srv=30)}, ["web1 has 30 MB of disk free on /srv: free 1000 MB."]),
        (
            DEBIAN | {"distribution_version": "12.9", "distribution_major_version": "12"},
            ["web1 runs Debian 12.9: Trestle needs Debian 13."],
        ),
    ],
)
def test_a_host_of_another_debian_or_without_room_is_named(facts, problems):
    known = {name: {"ansible_facts": said} for name, said in (("web0", DEBIAN), ("web1", facts))}
    assert preflight.preflight_host_problems(list(known), known) == problems


# The real thing

RUNS = {
    "an address twice": (
        ("hosts/web/hosts/web2/ansible_host", "web1.production.example.com"),
        "web1 and web2 have the same ansible_host, web1.production.example.com: give each its own.",
    ),
    "a misspelt variable": (("main/lb_vipp", "x"), "lb_vipp is not a variable: did you mean lb_vip?"),
    "an undefined variable in a site": (
        ("sites/newsroom/environment", {"API": "{{ nothing }}"}),
        "sites.newsroom.environment.API cannot be templated ('nothing' is undefined): correct the expression.",
    ),
}


def run_of(copy, playbook: str = "site.yml") -> subprocess.CompletedProcess:
    given = copy.folder.parent / "secrets.yml"
    given.write_text(yaml.safe_dump(copy.extra))
    command = [
        Path(sys.executable).with_name("ansible-playbook"),
        playbook,
        "-i",
        str(copy.folder),
        "-e",
        f"@{given}",
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/build.yml"])
@pytest.mark.parametrize(("change", "sentence"), RUNS.values(), ids=RUNS)
def test_a_run_stops_before_any_host_is_touched(copy, change, sentence, playbook):
    copy.set(*change)
    run = run_of(copy, playbook)
    output = run.stdout + run.stderr
    assert run.returncode != 0, output
    assert sentence in output
    assert re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE) == ["Refuse what cannot work"], output
    assert not re.search(r"(ok|changed|unreachable)=[1-9]", output), output


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("mail_from: [ada", "While parsing a flow sequence did not find expected ',' or ']'."),
        ("lb_vip: twice", "Found duplicate mapping key 'lb_vip'."),
    ],
)
def test_a_file_that_is_no_yaml_is_named(copy, line, text):
    file = copy.folder / FILES["main"]
    file.write_text(file.read_text() + f"{line}\n")
    run = run_of(copy)
    assert run.returncode != 0
    assert re.fullmatch(rf"error: {file}:\d+: YAML parsing failed: {re.escape(text)} Correct the file.\n", run.stderr)
    assert "PLAY" not in run.stdout


def test_an_inventory_with_no_host_at_all_is_refused(copy):
    for tier in ("lb", "web", "db", "cache", "media", "monitor"):
        copy.set(f"hosts/{tier}/hosts", {})
    run = run_of(copy)
    assert run.returncode != 0
    text = "no host of this inventory is in the first play: name hosts in its hosts.yml."
    assert f"error: {copy.folder}: {text}" in run.stderr
    assert "TASK" not in run.stdout
