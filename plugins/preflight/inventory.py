"""The inventory as preflight reads it: each variable's text, its value, and the file and line it stands in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import jinja2

# ansible-core has no public name for where a value was read; requirements.txt pins its version.
from ansible._internal._datatag._tags import Origin
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import EncryptedString
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


@dataclass(frozen=True)
class Failed:
    """Stands where a value could not be templated."""

    reason: str
    # It is encrypted, and the password does not fit.
    sealed: bool
    # It needs facts, and no host has been asked yet; or a secret, and those are checked by themselves.
    excused: bool


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(str(name), [*known], 1, cutoff)), None)


def leaves(value, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """Everything in a value that is neither a mapping nor a list, each with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield path, value


@cache
def secret_names() -> tuple[str, ...]:
    """The vault's variables."""
    return tuple(re.findall(r"\bvault_\w+", (ROOT / "group_vars/all/secrets.yml").read_text()))


def names_in(value) -> set[str]:
    """The words of every Jinja expression in a value; the names of variables are among them."""
    texts = (text for _, leaf in leaves(value) if isinstance(leaf, str) for text in EXPRESSION.findall(leaf))
    return {word for text in texts for word in re.findall(r"[A-Za-z_]\w*", text)}


class Host:
    """One host's variables."""

    def __init__(self, name: str, raw: Mapping, hostvars):
        self.name = name
        self.raw = raw
        self.templar = Templar(loader=DataLoader(), variables={**raw, "hostvars": hostvars})
        self._values: dict = {}

    @property
    def folder(self) -> str:
        """The inventory's folder, as sentences name it."""
        return readable(self.raw["inventory_dir"])

    @cached_property
    def own(self) -> list[str]:
        """The names that the inventory or -e gives this host; not Ansible's, nor those of the top-level group_vars/."""
        return [name for name, value in self.raw.items() if is_of_the_user(origin(name, value))]

    def value(self, name: str):
        """The variable's value in plain types, Failed where something cannot be templated; None where it is not set."""
        if name not in self._values:
            self._values[name] = self._plain(self.raw.get(name))
        return self._values[name]

    def _plain(self, raw):
        try:
            if isinstance(raw, Mapping):
                return {key: self._plain(inner) for key, inner in raw.items()}
            if isinstance(raw, (list, tuple)):
                return [self._plain(inner) for inner in raw]
            value = self.templar.template(raw)
            if isinstance(value, jinja2.Undefined):
                str(value)  # raises what is wrong with it
            return value if value is raw or not isinstance(value, (Mapping, list)) else self._plain(value)
        except (AnsibleError, jinja2.TemplateError) as error:
            sealed = isinstance(raw, EncryptedString)
            return Failed(str(error).splitlines()[0].rstrip("."), sealed, sealed or self._awaits(raw))

    def _awaits(self, raw, seen: frozenset = frozenset()) -> bool:
        """Whether an expression needs facts or one of our secrets, be it through other variables."""
        names = names_in(raw) - seen
        return any(name.startswith("ansible_") or name in secret_names() for name in names) or any(
            self._awaits(self.raw[name], seen | names) for name in names & self.raw.keys()
        )

    def where(self, path: tuple) -> str:
        """The file and line of a variable, or of the deepest part of ``path`` that has one."""
        place = "the inventory" if path[0] in self.raw else f"{self.folder}/group_vars/all/main.yml"
        node = self.raw
        for step in path:
            if isinstance(node, Mapping) and step in node:
                key = next(key for key in node if key == step)
                found, node = origin(key, node[step]), node[step]
            elif isinstance(node, list) and isinstance(step, int):
                found, node = origin(node[step], None), node[step]
            else:
                break
            if found:
                place = f"{readable(found.path)}:{found.line_num}" if found.path else "-e"
        return place

    def problem(self, path: tuple | str, text: str) -> str:
        """One sentence: file, variable, what is wrong and the remedy."""
        path = (path,) if isinstance(path, str) else path
        return f"{self.where(path)}: {dotted(path)} {text}"


class Inventory:
    def __init__(self, groups: Mapping, hostvars):
        self.groups = groups
        self.hosts = [Host(name, hostvars.raw_get(name), hostvars) for name in groups["all"]]
        # What is the same for every host is read from this one.
        self.common = self.hosts[0]

        self.tiers = self.common.raw["tiers"]

    @property
    def folder(self) -> str:
        return self.common.folder

    @property
    def hosts_file(self) -> str:
        return readable(self.common.raw["inventory_file"])


def origin(key, value) -> Origin | None:
    return Origin.get_tag(key) or Origin.get_tag(value)


def is_of_the_user(found: Origin | None) -> bool:
    if found is None or not found.path:
        return found is not None and "'-e'" in found.description
    return not Path(found.path).resolve().is_relative_to(ROOT / "group_vars")


def readable(path: str) -> str:
    """Relative to the repository where it is in it."""
    real = Path(path).resolve()
    return str(real.relative_to(ROOT)) if real.is_relative_to(ROOT) else str(real)


def dotted(path: tuple) -> str:
    """``("sites", "shop", "domains", 0)`` as sites.shop.domains[0]."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
