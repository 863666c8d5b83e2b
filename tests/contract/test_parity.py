"""The three environments differ in values, never in which variables they have; no name has two owners."""

import pytest
import yaml
from environments import REAL, ROLES, ROOT, environment

from plugins.filter.trestle import complete_sites

# What an entry of `sites` must say itself.
OF_THE_ENTRY = {"source", "domains", "settings_module"}


def keys_of(folder) -> dict[str, str]:
    """Each variable of a group_vars folder, with the file that has it."""
    files = [path for path in sorted(folder.glob("*.yml")) if path.name != "vault.yml"]
    return {key: str(path.relative_to(ROOT)) for path in files for key in yaml.safe_load(path.read_text()) or {}}


def environment_keys(name: str) -> dict[str, str]:
    return keys_of(ROOT / "inventories" / name / "group_vars/all")


COMMON = keys_of(ROOT / "group_vars/all")


@pytest.mark.parametrize("name", REAL)
def test_the_environments_have_the_same_variables(name):
    assert sorted(environment_keys(name)) == sorted(environment_keys(REAL[0]))


@pytest.mark.parametrize("name", REAL)
def test_every_variable_of_an_environment_has_one_file(name):
    folder = ROOT / "inventories" / name / "group_vars/all"
    keys = [
        key for path in folder.glob("*.yml") if path.name != "vault.yml" for key in yaml.safe_load(path.read_text())
    ]
    assert sorted(keys) == sorted(set(keys))
    assert [path.name for path in (ROOT / "inventories" / name / "group_vars").iterdir()] == ["all"]
    assert not (ROOT / "inventories" / name / "host_vars").exists(), "it would outrank the lab's addresses"


@pytest.mark.parametrize("name", REAL)
def test_no_variable_is_defined_on_both_sides(name):
    both = COMMON.keys() & environment_keys(name).keys()
    assert not both, [(COMMON[key], environment_keys(name)[key]) for key in both]


def defaults_and_vars(role: str) -> set[str]:
    files = [ROOT / "roles" / role / folder / "main.yml" for folder in ("defaults", "vars")]
    return {key for path in files if path.is_file() for key in yaml.safe_load(path.read_text()) or {}}


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_a_default_for_what_group_vars_say(role):
    """A default is for what group_vars leave out; both would be two truths."""
    for owned in (COMMON, *(environment_keys(name) for name in REAL)):
        assert not defaults_and_vars(role) & owned.keys()


@pytest.mark.parametrize("name", REAL)
def test_every_key_of_a_site_is_known(name):
    here = environment(name)
    host = here.hosts[0]
    sites, defaults = here.value(host, "sites"), here.value(host, "site_defaults")
    known = set(complete_sites({"any": {}}, defaults, "key")[0]) | OF_THE_ENTRY
    for site, entry in sites.items():
        assert not entry.keys() - known, f"{site} in {name} has unknown keys"
        assert entry.keys() >= OF_THE_ENTRY - ({"settings_module"} if entry.get("app_type") == "wsgi" else set())


def test_the_environments_are_reached_by_name_from_the_root():
    for name in REAL:
        assert (ROOT / name).resolve() == ROOT / "inventories" / name
    assert (ROOT / "playbooks/group_vars").resolve() == ROOT / "group_vars", "plays would not see group_vars/"


@pytest.mark.parametrize("name", REAL)
def test_every_tier_has_hosts_and_every_host_is_in_a_tier(name):
    here = environment(name)
    for tier in here.value(here.hosts[0], "tiers"):
        assert here.value(here.hosts[0], f"tier_members.{tier}"), tier
    for host in here.hosts:
        assert here.value(host, "host_tiers"), host
