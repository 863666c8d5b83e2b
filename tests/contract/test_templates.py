"""Every template of every role, rendered for every environment and for one unlike them, with no host."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from environments import REAL, ROLES, ROOT, SOURCES, Rendered, environment, rendered

# What checks a file by itself. The other validators want the host around them, or the version that Debian 13 has.
CHECKERS = {"visudo", "nft"}
# Formats with no comments, JSON apart: every line would be taken for what it holds.
SILENT = {"pool_passwd.j2", "pgpoolkey.j2"}
LITERALS = re.compile(r"\b(?:lb|web|db|cache|media|monitor|dev)\d+\b|\b(?:production|staging)\b")

every = pytest.mark.parametrize(("name", "role"), [(name, role) for role in ROLES for name in SOURCES])


def is_json(file: Rendered) -> bool:
    return ".json" in "".join(Path(file.dest).suffixes) or file.source.name.endswith(".json.j2")


@every
def test_every_template_renders_and_says_who_manages_it(name, role):
    silent = set()
    for file in rendered(name, role):
        assert not re.search(r"\{\{ |\{% |<generator |<bound method|Undefined", file.text), f"{file}: unrendered"
        # A first line that must be first (#!, doctype) may come before; some comments take three lines to say it.
        first = [line for line in file.text.splitlines() if line.strip()][:4]
        if (
            file.source.name not in SILENT
            and not is_json(file)
            and not any("Ansible managed" in line for line in first)
        ):
            silent.add(str(file.source.relative_to(ROOT)))
    assert not silent, f"do not begin with ansible_managed: {sorted(silent)}"


@every
def test_what_is_rendered_parses(name, role):
    for file in rendered(name, role):
        suffix = Path(file.dest).suffix or Path(file.source.stem).suffix
        try:
            if is_json(file):
                json.loads(file.text)
            elif suffix in {".yml", ".yaml"}:
                assert yaml.safe_load(file.text), "empty"
            elif suffix in {".service", ".timer", ".socket", ".path", ".ini"} or "/supervisor/" in file.dest:
                configparser.RawConfigParser(strict=suffix == ".ini", allow_no_value=True).read_string(file.text)
            elif suffix == ".py" or file.text.startswith("#!/usr/bin/python"):
                compile(file.text, file.dest, "exec")
            elif re.match(r"#!/(usr/)?bin/(ba)?sh", file.text):
                shell = "bash" if "bash" in file.text.splitlines()[0] else "sh"
                run = subprocess.run([shell, "-n"], input=file.text, text=True, capture_output=True, timeout=10)
                assert run.returncode == 0, run.stderr
        except (ValueError, SyntaxError, AssertionError, yaml.YAMLError, configparser.Error) as error:
            pytest.fail(f"{file} -> {file.dest} does not parse: {error}\n{file.text}")


@every
def test_what_is_rendered_passes_its_own_program(name, role, tmp_path):
    """The task's own ``validate``, run here."""
    files = [file for file in rendered(name, role) if file.validate]
    checkers = {shlex.split(file.validate)[0] for file in files} & CHECKERS
    missing = {program for program in checkers if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")}
    assert not missing, f"not installed here, where make test installs them: {', '.join(sorted(missing))}"
    seen = set()
    for file in files:
        program, *arguments = shlex.split(file.validate)
        if program not in checkers or file.text in seen:
            continue
        seen.add(file.text)
        written = tmp_path / f"file{len(seen)}"
        written.write_text(file.text)
        written.chmod(0o600)
        command = [shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"), *arguments]
        run = subprocess.run(
            [str(written) if part == "%s" else part.replace("%s", str(written)) for part in command],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert run.returncode == 0, f"{file}\n{run.stdout}{run.stderr}\n{file.text}"


@pytest.mark.parametrize("role", ROLES)
def test_no_template_knows_a_name_that_only_our_environments_have(role):
    """In an environment of other names and sizes no file names web1, production or the like."""
    for file in rendered("elsewhere", role):
        assert not (found := LITERALS.search(file.text)), f"{file} says '{found[0]}'\n{file.text}"


@pytest.mark.parametrize("role", ROLES)
def test_every_template_is_used_and_lies_where_its_target_does(role):
    used = {file.source for name in SOURCES for file in rendered(name, role)}
    folder = ROOT / "roles" / role / "templates"
    files = {path for path in folder.rglob("*") if path.is_file()}
    included = {path for path in files if path.name.startswith("_")}
    assert files - included == used, "never rendered: " + ", ".join(str(p) for p in files - included - used)
    for path in files - included:
        target = {file.dest for name in SOURCES for file in rendered(name, role) if file.source == path and file.dest}
        top = path.relative_to(folder).parts[0]
        assert all(Path(dest).parts[1] == top for dest in target), f"{path} is written to {target}"


@pytest.mark.parametrize("name", SOURCES)
def test_no_two_roles_own_one_file(name):
    owners: dict[tuple[str, str], str] = {}
    for role in ROLES:
        for file in rendered(name, role):
            owner = owners.setdefault((file.host, file.dest), role)
            assert owner == role, f"{file.dest} on {file.host} is written by {owner} and by {role}"


@pytest.mark.parametrize("name", REAL)
def test_every_role_has_hosts(name):
    assert not [role for role in ROLES if not environment(name).hosts_with(role)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_site_s_environment_reaches_the_process_as_it_is_written(name, tmp_path):
    """Quotes, dollars and hashes in a value survive the file that the shell reads."""
    here = environment(name)
    sites = {site["root"]: site for site in here.value(here.hosts[0], "site_list")}
    files = {
        Path(file.dest).parents[1]: file for file in rendered(name, "release") if file.dest.endswith("/environment")
    }
    assert {str(root) for root in files} == set(sites), "not every site has an environment"
    for root, file in files.items():
        written = tmp_path / "environment"
        written.write_text(file.text)
        command = ["env", "-i", "/bin/sh", "-c", f"set -a; . {written}; exec /usr/bin/env -0"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        found = dict(entry.split("=", 1) for entry in run.stdout.split("\0") if entry)
        wanted = {key: str(value) for key, value in sites[str(root)]["environment"].items()}
        assert {key: found.get(key) for key in wanted} == wanted
