"""What a role documents, what it has defaults for and what it reads are the same variables."""

import re

import pytest
import yaml
from environments import REAL, ROLES, ROOT, environment, plays, roles_in
from test_parity import COMMON, environment_keys

PROVIDED = COMMON.keys() | environment_keys(REAL[0]).keys()
# What Ansible's expressions stand in without braces.
BARE = ("when", "until", "changed_when", "failed_when", "that", "var")
COERCIBLE = {
    "str": lambda value: isinstance(value, (str, int, float)) and not isinstance(value, bool),
    "int": lambda value: not isinstance(value, bool) and re.fullmatch(r"-?\d+", str(value)),
    "float": lambda value: not isinstance(value, bool) and re.fullmatch(r"-?\d+(\.\d+)?", str(value)),
    "bool": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "dict": lambda value: isinstance(value, dict),
    "path": lambda value: isinstance(value, str),
    "raw": lambda value: True,
}
every = pytest.mark.parametrize("role", ROLES)


def load(role: str, path: str):
    file = ROOT / "roles" / role / path
    return (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}


def options(role: str) -> dict[str, dict]:
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {})


def nested(specs: dict):
    for name, spec in specs.items():
        yield name, spec
        yield from nested(spec.get("options", {}))


@every
def test_a_role_says_what_it_is(role):
    readme = ROOT / "roles" / role / "README.md"
    assert readme.is_file(), f"roles/{role}/README.md is missing"
    assert len(readme.read_text().splitlines()) <= 40, "a README says what it is, not everything"
    specs = load(role, "meta/argument_specs.yml")
    assert specs, f"roles/{role}/meta/argument_specs.yml is missing"
    assert specs["argument_specs"]["main"]["short_description"]


@every
def test_every_default_is_documented_and_everything_documented_comes_from_somewhere(role):
    documented, defaults = options(role), load(role, "defaults/main.yml")
    assert not defaults.keys() - documented.keys(), "not documented in meta/argument_specs.yml"
    for name in documented.keys() - defaults.keys():
        spec = documented[name]
        assert name in PROVIDED or spec.get("required"), (
            f"{name} has no default, is not required and is in no group_vars"
        )
        assert not name.startswith(f"{role}_") or spec.get("required"), f"{name} has no default: require it"
    for name in defaults:
        assert not documented[name].get("required"), f"{name} is required, so its default is never used"


@every
def test_a_specification_describes_and_has_no_second_copy_of_a_default(role):
    for name, spec in nested(options(role)):
        assert "default" not in spec, f"{name} repeats its default"
        assert str(spec.get("description", "")).strip(), f"{name} is not described"
        assert spec.get("type") in COERCIBLE, f"{name} has the type {spec.get('type')}"


@every
def test_a_default_is_of_the_type_that_is_documented(role):
    here = environment(REAL[0])
    host, play = here.hosts_with(role)[0]
    variables = here.role_vars(role, host, play)
    for name in load(role, "defaults/main.yml"):
        value = here.templar(variables).template(here.expression(name))
        spec = options(role)[name]
        assert COERCIBLE[spec["type"]](value), f"{name} is {value!r}, documented as {spec['type']}"
        assert value in spec.get("choices", [value]), f"{name} is {value!r}, none of {spec['choices']}"


@every
def test_names_begin_with_the_name_of_the_role(role):
    assert not [name for name in load(role, "defaults/main.yml") if not name.startswith(f"{role}_")]
    internal = set(load(role, "vars/main.yml"))
    for path in task_files(role):
        internal |= set(internal_names(yaml.safe_load(path.read_text()) or []))
    # A task may have another value for what its role is given.
    wrong = [name for name in internal - options(role).keys() if not name.startswith(f"__{role}_")]
    assert not wrong, f"internal names begin with __{role}_: {wrong}"


def task_files(role: str):
    folder = ROOT / "roles" / role
    return sorted([*folder.glob("tasks/*.yml"), *folder.glob("handlers/*.yml")])


def internal_names(node):
    """What tasks register, set or define for themselves; not what they hand to another role."""
    if isinstance(node, list):
        for entry in node:
            yield from internal_names(entry)
    elif isinstance(node, dict):
        hands_over = any(key.endswith(("include_role", "import_role")) for key in node)
        if "register" in node:
            yield node["register"]
        for key in ("ansible.builtin.set_fact",) if hands_over else ("ansible.builtin.set_fact", "vars"):
            yield from (n for n in node.get(key, {}) if n != "cacheable" and not n.startswith("ansible_"))
        for key in ("block", "rescue", "always"):
            yield from internal_names(node.get(key, []))


def expressions(node):
    """Every Jinja expression of a task file."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in BARE:
                yield from (str(item) for item in (value if isinstance(value, list) else [value]))
            yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)
    elif isinstance(node, str):
        yield from ("".join(match) for match in re.findall(r"\{\{(.*?)\}\}|\{%(.*?)%\}", node, re.DOTALL))


def names_read(role: str) -> set[str]:
    folder = ROOT / "roles" / role
    texts = [text for path in task_files(role) for text in expressions(yaml.safe_load(path.read_text()))]
    texts += [text for part in ("defaults", "vars") for text in expressions(load(role, f"{part}/main.yml"))]
    texts += [text for path in folder.glob("templates/**/*.j2") for text in expressions(path.read_text())]
    return {name for text in texts for name in names_in(text)}


def names_in(expression: str) -> set[str]:
    """The names in an expression that are variables: no strings, attributes, filters or keyword arguments."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", expression)
    return set(re.findall(r"(?<![.|\w])(?<!\| )\b([a-z_]\w*)\b(?!\s*=[^=])(?!\()", bare))


@every
def test_every_variable_that_a_role_reads_from_group_vars_is_documented(role):
    missing = (names_read(role) & PROVIDED) - options(role).keys()
    assert not missing, f"read, but not in meta/argument_specs.yml: {sorted(missing)}"


@every
def test_every_variable_that_is_documented_is_read(role):
    unread = options(role).keys() - names_read(role)
    assert not unread, f"documented, but nothing reads it: {sorted(unread)}"


@every
def test_a_role_is_in_a_play_under_its_own_tag(role):
    listed = [entry for play in plays() for entry in play.get("roles", []) if entry["role"] == role]
    assert any(role in roles_in(play) for play in plays()), "no play of site.yml has this role"
    for entry in listed:
        assert role in ([tags] if isinstance(tags := entry.get("tags", []), str) else tags), (
            f"{role} has no tag of its own"
        )


def test_names_in_an_expression_are_those_of_variables():
    assert names_in("sites | map(attribute='tiers') | join(services.first) ~ 'domain'") == {"sites", "services"}
