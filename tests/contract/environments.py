"""Environments read as Ansible reads them, and every role's templates rendered for their hosts, with no host at all.

Variables come from the real inventories, the plays of site.yml and the roles' defaults through Ansible's own variable
manager; only facts, secrets and name resolution are made up. Of the tasks, those of ``ansible.builtin.template`` are
followed, with the loops, variables and conditions around them.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
sys.path.insert(0, str(ROOT))

from ansible._internal._templating._template_vars import generate_ansible_template_vars  # noqa: E402
from ansible.errors import AnsibleUndefinedVariable  # noqa: E402
from ansible.inventory.manager import InventoryManager  # noqa: E402
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.playbook.play import Play  # noqa: E402
from ansible.playbook.role import Role  # noqa: E402
from ansible.playbook.role.include import RoleInclude  # noqa: E402
from ansible.playbook.task import Task  # noqa: E402
from ansible.plugins.loader import init_plugin_loader  # noqa: E402
from ansible.template import Templar, trust_as_template  # noqa: E402
from ansible.vars.hostvars import HostVars  # noqa: E402
from ansible.vars.manager import VariableManager  # noqa: E402

from tools import secrets  # noqa: E402

init_plugin_loader([])

REAL = ("production", "staging", "dev")
SOURCES = {name: ROOT / "inventories" / name for name in REAL} | {"elsewhere": HERE / "elsewhere"}
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())

TEMPLATE = {"ansible.builtin.template", "template"}
INCLUDE_TASKS = {"ansible.builtin.include_tasks", "ansible.builtin.import_tasks"}
INCLUDE_ROLE = {"ansible.builtin.include_role", "ansible.builtin.import_role"}

LOOKUP = re.compile(r"lookup\(\W*(?:ansible\.builtin\.)?template\W+([\w./-]+)")


def resolve_offline(name: str) -> str:
    """Every name resolves, and nothing asks a name server."""
    try:
        socket.inet_aton(name)
        return name
    except OSError:
        return f"192.0.2.{200 + sum(name.encode()) % 50}"


socket.gethostbyname = resolve_offline


@functools.cache
def vault(env_name: str) -> dict[str, str]:
    return secrets.make(env_name)


@functools.cache
def plays() -> list[dict]:
    """The plays of site.yml, in order."""
    books = [entry["ansible.builtin.import_playbook"] for entry in yaml.safe_load((ROOT / "site.yml").read_text())]
    return [play for book in books for play in yaml.safe_load((ROOT / book).read_text()) if "hosts" in play]


def roles_in(play: dict) -> list[str]:
    """The roles of a play, in order: those of ``roles`` and those its tasks include."""
    found = [role if isinstance(role, str) else role["role"] for role in play.get("roles", [])]

    def walk(node):
        if isinstance(node, dict):
            for key, value in node.items():
                if key in INCLUDE_ROLE:
                    found.append(value["name"])
                else:
                    walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    for section in ("pre_tasks", "tasks", "post_tasks"):
        walk(play.get(section) or [])
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Around:
    """What surrounds a task: the loops, variables and conditions of the blocks and includes it is in."""

    loops: tuple = ()
    variables: dict = field(default_factory=dict)
    conditions: tuple = ()

    def within(self, entry: dict) -> Around:
        loops = self.loops
        if "loop" in entry:
            loops += ((entry.get("loop_control", {}).get("loop_var", "item"), entry["loop"]),)
        when = entry.get("when", [])
        conditions = self.conditions + tuple(when if isinstance(when, list) else [when])
        return Around(loops, self.variables | entry.get("vars", {}), conditions)


@dataclass
class Rendered:
    role: str
    host: str
    source: Path
    dest: str
    text: str
    validate: str

    def __str__(self):
        return f"{self.source.relative_to(ROOT)} on {self.host}"


class Environment:
    def __init__(self, name: str, without: str | None = None, down: tuple[str, ...] = ()):
        self.name = name
        self.loader = DataLoader()
        self.loader.set_basedir(str(ROOT / "playbooks"))
        self.inventory = InventoryManager(self.loader, sources=[str(SOURCES[name])])
        self.variables = VariableManager(self.loader, self.inventory)
        self.variables._extra_vars = {key: trust_as_template(value) for key, value in vault(name).items()}
        self.variables._extra_vars["__build_packed"] = {"releases": []}  # no source is packed here
        self.hostvars = HostVars(self.inventory, self.variables, self.loader)
        self.hosts = [host.name for host in self.inventory.get_hosts()]
        for number, host in enumerate(self.hosts, 10):
            if host in down:
                known = {"address": self.facts(host, number)["ansible_default_ipv4"]["address"], "cores": 2}
                self.variables.set_nonpersistent_facts(host, {"remembered": known})
            else:
                self.variables.set_host_facts(host, self.facts(host, number))
        if without:
            self._remove(without)
        self.plays = [
            (play, Play.load({"name": play["name"], "hosts": play["hosts"]}, self.variables, self.loader))
            for play in plays()
        ]

    def _remove(self, name: str):
        """As if its line had been deleted from hosts.yml; the others keep their addresses."""
        host = self.inventory.get_host(name)
        self.hosts.remove(name)
        self.inventory._inventory.remove_host(host)
        self.inventory.clear_caches()

    @staticmethod
    def facts(host: str, number: int) -> dict:
        """What plugins/action/host_facts.py would find."""
        address = f"192.0.2.{number}"
        return {
            "ansible_default_ipv4": {"address": address, "interface": "eth0", "gateway": "192.0.2.1"},
            "ansible_all_ipv4_addresses": [address],
            "ansible_memtotal_mb": 4096,
            "ansible_processor_vcpus": 2,
            "ansible_distribution": "Debian",
            "ansible_distribution_version": "13",
            "ansible_distribution_major_version": "13",
            "ansible_mounts": [],
        }

    def vars_of(self, host: str, play: Play | None = None, task: Task | None = None) -> dict:
        known = self.variables.get_vars(play=play or self.plays[0][1], host=self.inventory.get_host(host), task=task)
        return known | {"hostvars": self.hostvars}

    def templar(self, variables: dict) -> Templar:
        return Templar(loader=self.loader, variables=variables)

    @staticmethod
    def expression(name: str) -> str:
        return trust_as_template("{{ " + name + " }}")

    def value(self, host: str, name: str):
        """A variable of a host, as a play would see it."""
        return self.templar(self.vars_of(host)).template(self.expression(name))

    def role_vars(self, role: str, host: str, play: Play) -> dict:
        """The variables of a task of the role, its defaults among them."""
        include = RoleInclude.load(role, play=play, variable_manager=self.variables, loader=self.loader)
        loaded = Role.load(include, play=play)
        task = Task.load({"ansible.builtin.debug": {}}, role=loaded, variable_manager=self.variables)
        return self.vars_of(host, play, task)

    def hosts_with(self, role: str) -> list[tuple[str, Play]]:
        """The hosts that a play of site.yml gives the role, each with that play."""
        found = {}
        for raw, play in self.plays:
            if role in roles_in(raw):
                for host in self.inventory.get_hosts(raw["hosts"].replace("{{", "").replace("}}", "")):
                    found.setdefault(host.name, play)
        return list(found.items())

    def render(self, role: str, but: Sequence[str] = ()) -> list[Rendered]:
        """Every template of a role, for every host that has the role."""
        hosts = [(host, play) for host, play in self.hosts_with(role) if host not in but]
        return [rendered for host, play in hosts for rendered in self._render(role, host, play)]

    def _render(self, role: str, host: str, play: Play) -> Iterator[Rendered]:
        variables = self.role_vars(role, host, play)
        for entry, around in template_tasks(self.loader, ROOT / "roles" / role):
            for scope in self._scopes(variables | around.variables, around.loops):
                templar = self.templar(scope)
                if all(self._holds(templar, condition) for condition in around.conditions):
                    yield self._template(role, host, entry, scope)

    def _scopes(self, variables: dict, loops: tuple) -> Iterator[dict]:
        if not loops:
            yield variables
            return
        (name, expression), *rest = loops
        for value in self.templar(variables).template(expression):
            yield from self._scopes(variables | {name: value}, tuple(rest))

    @staticmethod
    def _holds(templar: Templar, condition) -> bool:
        try:
            return condition if isinstance(condition, bool) else templar.evaluate_conditional(condition)
        except AnsibleUndefinedVariable:
            return True  # it asks for the result of a task; what could be written must be right

    def _template(self, role: str, host: str, entry: dict, scope: dict) -> Rendered:
        folder = ROOT / "roles" / role / "templates"
        arguments = next(entry[key] for key in TEMPLATE if key in entry)
        templar = self.templar(scope)
        source = folder / templar.template(arguments["src"])
        dest = templar.template(arguments["dest"])
        extra = generate_ansible_template_vars(path=str(source), fullpath=str(source), dest_path=dest)
        templar = templar.copy_with_new_env(searchpath=[str(folder)], available_variables=scope | extra)
        text = templar.template(
            trust_as_template(source.read_text()), escape_backslashes=False, overrides={"trim_blocks": True}
        )
        validate = templar.template(arguments.get("validate", ""))
        return Rendered(role, host, source, dest, text or "", validate)


def template_tasks(loader: DataLoader, role: Path) -> Iterator[tuple[dict, Around]]:
    """Every template task of a role, with what surrounds it; files that no task names are read too."""
    seen: set[Path] = set()

    def walk(path: Path, around: Around) -> Iterator[tuple[dict, Around]]:
        seen.add(path)
        for entry in loader.load_from_file(str(path), trusted_as_template=True) or []:
            yield from visit(entry, around.within(entry), path)

    def visit(entry: dict, around: Around, path: Path) -> Iterator[tuple[dict, Around]]:
        for key in ("block", "rescue", "always"):
            for inner in entry.get(key, []):
                yield from visit(inner, around.within(inner), path)
        for key in INCLUDE_TASKS & entry.keys():
            name = entry[key] if isinstance(entry[key], str) else entry[key]["file"]
            if (target := path.parent / name).is_file():
                yield from walk(target, around)
        if TEMPLATE & entry.keys():
            yield entry, around
        for source in LOOKUP.findall(str(entry)):
            yield {"name": entry["name"], "template": {"src": source, "dest": ""}}, around

    main = role / "tasks/main.yml"
    if main.is_file():
        yield from walk(main, Around())
    for path in sorted([*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")]):
        if path not in seen:
            yield from walk(path, Around())


@functools.cache
def environment(name: str) -> Environment:
    os.chdir(ROOT)
    return Environment(name)


@functools.cache
def rendered(name: str, role: str) -> list[Rendered]:
    return environment(name).render(role)
