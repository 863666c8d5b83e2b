"""House rules that a linter does not know."""

import re
import subprocess

import pytest
import yaml
from environments import ROLES, ROOT

LONGEST = 80
ADDRESS = re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
REGISTRY = re.compile(
    r"https?://\S*(?:pypi|pythonhosted|npm|debian|galaxy|registry)|\bindex-url\b"
    r"|\b(?:pypi|pythonhosted|galaxy\.ansible)\.\w|\b(?:docker\.\w+/|\w+cr\.io\b|quay\.\w)",
    re.IGNORECASE,
)
OWN_PATH = re.compile(r"(?<![\w.-])/(?:work|home|Users|tmp/t)/")
UNEXPLAINED = re.compile(r"# noqa(:? [\w-]+(\[[\w-]+\])?)?\s*$")


def tracked(*patterns: str) -> list:
    """The files of the repository, committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for path in (ROOT / name for name in names) if path.is_file() and not path.is_symlink()]


def lines(*patterns: str):
    """(place, line) of every line of the files."""
    for path in tracked(*patterns):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def found(pattern: str, *patterns: str) -> list[str]:
    """Where the pattern stands in code; comments may speak of it."""
    return [f"{place}: {line.strip()}" for place, line in lines(*patterns) if re.search(pattern, line.split(" #")[0])]


ANSIBLE = ("roles/*.yml", "playbooks/*.yml", "site.yml", "molecule/*.yml", "group_vars/*.yml")


def test_no_task_file_and_no_template_is_long():
    files = tracked("roles/*/tasks/*.yml", "roles/*/handlers/*.yml", "roles/*/templates/*", "roles/*/defaults/*.yml")
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {name: length for name, length in long.items() if length > LONGEST}


def test_no_failure_is_ignored():
    assert not found(r"\bignore_errors\b", *ANSIBLE)
    assert not found(r"failed_when:\s*(false|no|\[\])\s*$", *ANSIBLE)
    assert not found(r"\|\|\s*(true|:)\s*$", *ANSIBLE)


def test_no_file_has_two_owners():
    assert not found(r"\b(lineinfile|blockinfile|replace):\s*$", *ANSIBLE)


def test_no_host_is_first_among_equals():
    assert not found(r"groups(\.\w+|\[[^]]+\])\s*(\[\d|\|\s*(first|last))", "roles", "playbooks", "group_vars")


def test_no_role_names_a_group():
    """Tiers come in through tier_members; who is in a group is for the inventory to say."""
    assert not found(r"\bgroups\b\s*[.\[]|\bgroup_names\b", "roles/*.yml", "roles/*.j2")


def test_inventories_carry_no_literal_address():
    assert not [f"{place}: {line}" for place, line in lines("inventories", "group_vars") if ADDRESS.search(line)]


def test_no_file_names_a_package_registry_or_a_developer_s_machine():
    here = ":!tests/contract/test_style.py"
    assert not [f"{place}: {line}" for place, line in lines(".", here) if REGISTRY.search(line)]
    assert not [f"{place}: {line}" for place, line in lines(".", here) if OWN_PATH.search(line)]


def tasks_in(node):
    """Every task of a file, those in blocks included."""
    for entry in node or []:
        if "block" in entry:
            for key in ("block", "rescue", "always"):
                yield from tasks_in(entry.get(key))
        else:
            yield entry


@pytest.mark.parametrize("role", ROLES)
def test_every_task_is_named_for_its_outcome_and_every_file_has_an_owner_and_a_mode(role):
    folder = ROOT / "roles" / role
    for path in [*folder.glob("tasks/*.yml"), *folder.glob("handlers/*.yml")]:
        for task in tasks_in(yaml.safe_load(path.read_text())):
            place = f"{path.relative_to(ROOT)}: {task.get('name')}"
            assert re.match(r"[A-Z]", task.get("name", "")), f"{place}: a name begins with a capital"
            for module in ("ansible.builtin.template", "ansible.builtin.copy"):
                if module in task:
                    missing = {"owner", "group", "mode"} - task[module].keys()
                    assert not missing or task.get("delegate_to") == "localhost", f"{place}: no {sorted(missing)}"
                    assert isinstance(task[module].get("mode", ""), str), f"{place}: quote the mode"


@pytest.mark.parametrize("role", ROLES)
def test_no_loop_shows_the_secrets_of_a_site(role):
    """A verbose run shows the whole item, whatever its label."""
    for path in (ROOT / "roles" / role).glob("tasks/*.yml"):
        for task in tasks_in(yaml.safe_load(path.read_text())):
            whole = "site_list" in str(task.get("loop")) and not re.search(r"keep_keys|map\(", str(task["loop"]))
            assert task.get("no_log") or not whole, f"{path.relative_to(ROOT)}: {task['name']}: keep_keys, or no_log"


@pytest.mark.parametrize("role", ROLES)
def test_commands_say_when_they_change_something(role):
    folder = ROOT / "roles" / role
    for path in [*folder.glob("tasks/*.yml"), *folder.glob("handlers/*.yml")]:
        for task in tasks_in(yaml.safe_load(path.read_text())):
            if {"ansible.builtin.command", "ansible.builtin.shell", "ansible.builtin.script"} & task.keys():
                reacts = "changed_when" in task or "creates" in str(task) or path.parent.name == "handlers"
                assert reacts, f"{path.relative_to(ROOT)}: {task['name']}: no changed_when"


def test_the_linter_skips_nothing():
    config = yaml.safe_load((ROOT / ".ansible-lint").read_text())
    assert config["profile"] == "production"
    assert not config.get("skip_list")
    assert not config.get("warn_list")
    bare = [place for place, line in lines("roles", "playbooks") if UNEXPLAINED.search(line)]
    assert not bare, f"an exception gives its reason: {bare}"


def test_every_target_of_the_makefile_says_what_it_does():
    makefile = ROOT / "Makefile"
    targets = re.findall(r"^([a-z][\w-]*):([^=].*|)$", makefile.read_text(), re.MULTILINE)
    wanted = {"demo", "test", "down", "status", "ssh", "lint", "bench", "test-all", "help"}
    assert not wanted - {name for name, rest in targets if "##" in rest}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert shown.returncode == 0, shown.stderr
    assert not [name for name in wanted if name not in shown.stdout]


def test_what_begins_as_a_program_can_be_run():
    """An archive of a role's files keeps their modes."""
    programs = [path for path in tracked("roles/*/files/usr/local/*") if path.read_bytes().startswith(b"#!")]
    assert programs and not [str(path.relative_to(ROOT)) for path in programs if not path.stat().st_mode & 0o100]
