"""Secrets: each is there, can be decrypted, is encrypted, and is nobody's sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ansible.parsing.vault import is_encrypted_file

from plugins.preflight.inventory import Failed, Inventory, leaves, origin, secret_names

SHORTEST = 16
SAMPLE = re.compile(r"(change|me|my|your|this|a|the|to|secret|password|pass|key|example|sample|default|test|todo|x)+")


def is_sample(value: str) -> bool:
    """Whether a value is made of the words that samples are made of, or of hardly any characters."""
    letters = re.sub(r"[^a-z]", "", value.lower())
    return bool(SAMPLE.fullmatch(letters)) or len(set(value)) < 5 or value.startswith("django-insecure-")


def check(inventory: Inventory) -> Iterator[str]:
    common = inventory.common
    make = f"run make secrets ENV={common.value('env_name')}"
    absent = [name for name in secret_names() if name not in common.raw]
    if absent:
        others = f" (nor are {len(absent) - 1} more)" if len(absent) > 1 else ""
        yield f"{inventory.folder}/group_vars/all/vault.yml: {absent[0]} is not set{others}: {make}."
    sealed = [path for name in common.own for path, leaf in leaves(common.value(name), (name,)) if is_sealed(leaf)]
    if sealed:
        others = f" (nor can {len(sealed) - 1} more)" if len(sealed) > 1 else ""
        yield common.problem(
            sealed[0], f"cannot be decrypted{others}: write the vault's password into .vault-password."
        )
    for name in secret_names():
        if name not in absent and (name,) not in sealed and (text := wrong(inventory, name)):
            yield common.problem(name, f"{text}: delete it and {make}.")


def is_sealed(leaf) -> bool:
    return isinstance(leaf, Failed) and leaf.sealed


def wrong(inventory: Inventory, name: str) -> str | None:
    value = inventory.common.value(name)
    if not isinstance(value, str):
        return "is not text"
    if is_sample(value):
        return "is a sample's value"
    if len(value) < SHORTEST:
        return f"has fewer than {SHORTEST} characters"
    if in_plain_text(inventory.common.raw[name]):
        return "is not encrypted"
    return None


def in_plain_text(raw) -> bool:
    """Whether a secret stands readable in a file, and is not looked up elsewhere either."""
    found = origin(None, raw)
    if not found or not found.path or not isinstance(raw, str) or "{{" in raw:
        return False
    with Path(found.path).open("rb") as file:
        return not is_encrypted_file(file)
