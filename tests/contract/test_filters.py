"""The filters by themselves."""

import collections
import copy
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from environments import REAL, ROOT, environment

from plugins.filter import trestle

FILES = [*ROOT.glob("plugins/filter/*.py"), *ROOT.glob("roles/*/filter_plugins/*.py")]
DEFAULTS = {"app_type": "django", "environment": {}, "packages": [], "www": "redirect"}
ENTRY = {"source": {"path": "x"}, "domains": ["a.example.com"], "settings_module": "paper.settings.live"}


def complete(sites: dict, key: str = "key") -> dict[str, dict]:
    return {site["name"]: site for site in trestle.complete_sites(sites, DEFAULTS, key)}


def test_no_two_filters_have_one_name():
    """The one that is loaded later would take the other's place, and a role is loaded whenever a play names it."""
    named = collections.defaultdict(set)
    for file in FILES:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name in module.FilterModule().filters():
            named[name].add(str(file.relative_to(ROOT)))
    assert len(named) > 20
    assert not {name: files for name, files in named.items() if len(files) > 1}


def test_the_files_of_filters_are_loaded_once_in_a_run_and_not_in_each_process(tmp_path):
    tasks = [
        {"ansible.builtin.debug": {"msg": "{{ 'it' | noted }}"}},
        {"ansible.builtin.assert": {"that": "'it' | noted"}},
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    (tmp_path / "hosts").write_text("one\ntwo\n")
    (tmp_path / "filter_plugins").mkdir()
    (tmp_path / "filter_plugins/noted.py").write_text(
        f"with open({str(tmp_path / 'loads')!r}, 'a') as file:\n    print('loaded', file=file)\n\n\n"
        "class FilterModule:\n    def filters(self):\n        return {'noted': lambda text: text == 'it'}\n"
    )
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts", "play.yml"]
    settings = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("msg: true") == 2, done.stdout + done.stderr
    assert (tmp_path / "loads").read_text() == "loaded\n"


def test_resolve_returns_an_address_as_it_is(monkeypatch):
    monkeypatch.undo()
    assert trestle.resolve("192.0.2.7") == "192.0.2.7"


def test_resolve_names_what_does_not_resolve(monkeypatch):
    def fail(name):
        raise OSError(2, "unknown")

    monkeypatch.setattr(trestle.socket, "gethostbyname", fail)
    with pytest.raises(AnsibleFilterError, match=r"nowhere\.example\.com"):
        trestle.resolve("nowhere.example.com")


def test_natural_orders_numbers_by_value_and_survives_mixed_names():
    assert trestle.natural(["web10", "web9", "10", "web", "db-2a", "db-2"]) == [
        "10",
        "db-2",
        "db-2a",
        "web",
        "web9",
        "web10",
    ]


def test_a_derived_secret_is_stable_and_another_for_every_key_and_context():
    secrets = [
        trestle.derived_secret("key", "site", "database"),
        trestle.derived_secret("key", "site", "secret_key"),
        trestle.derived_secret("key", "other", "database"),
        trestle.derived_secret("other", "site", "database"),
    ]
    assert len(set(secrets)) == len(secrets)
    assert secrets[0] == trestle.derived_secret("key", "site", "database")
    assert all(re.fullmatch(r"[0-9a-f]{64}", secret) for secret in secrets)


def test_the_port_of_a_site_does_not_depend_on_the_others():
    alone, among = complete({"m": ENTRY}), complete({"a": ENTRY, "m": ENTRY, "z": ENTRY})
    assert alone["m"]["port"] == among["m"]["port"] == trestle.site_port("m")
    last = trestle.SITE_PORT_FIRST + trestle.SITE_PORT_COUNT
    assert all(trestle.SITE_PORT_FIRST <= trestle.site_port(f"site-{n}") < last for n in range(500))


def test_what_an_entry_says_wins_over_defaults_and_over_what_follows_from_its_name():
    site = complete({"paper": ENTRY | {"www": "keep", "port": 9000, "wsgi_module": "own.wsgi"}})["paper"]
    assert (site["www"], site["port"], site["wsgi_module"]) == ("keep", 9000, "own.wsgi")
    assert complete({"paper": ENTRY})["paper"]["wsgi_module"] == "paper.wsgi"


def test_names_of_a_site_suit_what_they_name():
    site = complete({"Shop-2.example": ENTRY})["Shop-2.example"]
    assert re.fullmatch(r"[a-z][a-z0-9-]*", site["user"])
    assert re.fullmatch(r"[a-z][a-z0-9_]*", site["database"])


def test_sites_share_nothing():
    sites = complete({"a": ENTRY, "b": ENTRY})
    for key in ("user", "root", "port", "database", "database_password", "secret_key", "cache_prefix"):
        assert sites["a"][key] != sites["b"][key], key


def test_completing_changes_neither_the_entries_nor_the_defaults():
    before = copy.deepcopy((ENTRY, DEFAULTS))
    complete({"a": ENTRY, "b": ENTRY})
    assert before == (ENTRY, DEFAULTS)


PROGRAMS = {
    "gunicorn": {"command": "gunicorn", "count": 5, "memory_limit": "", "once": False},
    "other": {"count": 1, "memory_limit": "", "once": False},
}


def programs(*entries: dict) -> list[dict]:
    sites = [{"name": "shop", "programs": [{"name": "gunicorn"}, *entries]}]
    return trestle.complete_programs(sites, PROGRAMS)[0]["programs"]


def test_gunicorn_and_other_programs_have_defaults_of_their_own():
    completed = programs({"name": "worker", "command": "work"}, {"name": "mail", "command": "post", "count": 2})
    assert [(program["command"], program["count"]) for program in completed] == [
        ("gunicorn", 5),
        ("work", 1),
        ("post", 2),
    ]


def test_gunicorn_is_found_wherever_it_is_named():
    sites = [{"name": "shop", "programs": [{"name": "worker"}, {"name": "gunicorn", "count": 3}]}]
    assert trestle.complete_programs(sites, PROGRAMS)[0]["gunicorn"]["count"] == 3


def test_supervisor_starts_one_gunicorn_and_as_many_of_another_program_as_are_wanted():
    assert [program["processes"] for program in programs({"name": "worker", "count": 3})] == [1, 3]


def test_a_memory_limit_is_completed_to_bytes():
    limits = [program["memory_limit"] for program in programs({"name": "a", "memory_limit": "512m"}, {"name": "b"})]
    assert limits == [0, 512 * 2**20, 0]
    with pytest.raises(AnsibleFilterError, match=r"sites\.shop\.programs: the memory_limit of a is 'lots'"):
        programs({"name": "a", "memory_limit": "lots"})


def test_a_host_runs_the_services_of_its_tiers_and_those_of_every_host():
    services = [{"name": name, "tier": name} for name in ("all", "web", "db")]
    assert [service["name"] for service in trestle.in_tiers(services, ["web"])] == ["all", "web"]


def test_a_service_per_site_has_every_site_s_port():
    sites = [{"port": 8200}, {"port": 8100}]
    assert trestle.service_ports({"port": "per_site"}, sites) == [8100, 8200]
    assert trestle.service_ports({"port": 22}, sites) == [22]


@pytest.mark.parametrize("name", REAL)
def test_the_sites_of_an_environment_have_ports_and_users_of_their_own(name):
    here = environment(name)
    sites = here.value(here.hosts[0], "site_list")
    for key in ("port", "user", "database"):
        assert len({site[key] for site in sites}) == len(sites), key


def test_every_filter_is_used_and_every_one_that_is_used_is_there():
    """A filter that no variable, task or template uses is a leftover."""
    files = [
        path for folder in ("roles", "group_vars", "playbooks", "inventories") for path in (ROOT / folder).rglob("*")
    ]
    text = "\n".join(path.read_text() for path in files if path.suffix in {".yml", ".j2"} and path.is_file())
    unused = [name for name in trestle.FilterModule().filters() if not re.search(rf"\|\s*{name}\b|'{name}'", text)]
    assert not unused
