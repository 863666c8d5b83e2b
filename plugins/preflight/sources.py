"""Sources: each site has one, and it is there."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.errors import AnsibleFilterError
from packaging.requirements import Requirement

from plugins.filter.history import versions_wanted
from plugins.preflight.inventory import ROOT, Inventory

KINDS = ("path", "git", "pypi")
SECONDS = 8
# What stands before the host in https://user:password@host.
PASSWORD = re.compile(r"//[^/@\s]+@")
COMMIT = re.compile(r"[0-9a-f]{7,40}")


def check(inventory: Inventory) -> Iterator[str]:
    sites, version = inventory.common.value("sites"), inventory.common.value("release_version")
    try:
        named = inventory.common.value("site") or ""
        wanted = versions_wanted([{"name": name, **sites[name]} for name in sorted(sites)], version, named)
    except AnsibleFilterError as error:
        yield f"-e release_version={version}: {error.message}"
        return
    # Tags that build nothing must work while a repository is away.
    asks = {"all", "build", "release", "gunicorn"} & {*inventory.common.raw.get("ansible_run_tags", ["all"])}
    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda name: [*wrong(sites[name]["source"], bool(asks), wanted.get(name))], sites)
        for name, found in zip(sites, answers, strict=True):
            for key, text in found:
                said = PASSWORD.sub("//", text)
                if name in wanted and key == ("version",):
                    yield f"-e: release_version {said}"
                else:
                    yield inventory.common.problem(("sites", name, "source", *key), said)


def wrong(source: dict, asks: bool, wanted: str | None = None) -> Iterator[tuple[tuple, str]]:
    """``wanted`` is a version that was asked for instead of the source's own."""
    kinds = [kind for kind in KINDS if source.get(kind)]
    if len(kinds) != 1:
        yield (), f"names {' and '.join(kinds) or 'none'} of {', '.join(KINDS)}: name one."
        return
    kind = kinds[0]
    for key in source.keys() & {"version", "deploy_key"}:
        if kind != "git":
            yield (key,), f"belongs to a git source, and this is a {kind}: delete it."
    if kind == "path":
        if not (ROOT / source["path"]).is_dir():
            yield (kind,), f"names {source['path']}, and there is no such folder: correct it."
        elif wanted and not in_work_tree(ROOT / source["path"], wanted):
            yield (
                ("version",),
                f"is {wanted}, and {source['path']} is in no git work tree with that version: correct it.",
            )
    elif kind == "pypi":
        requirement = Requirement(source["pypi"])
        if not requirement.url and [part.operator for part in requirement.specifier] not in (["=="], ["==="]):
            yield (kind,), f"is '{source['pypi']}', which is no one version: write {requirement.name}==<version>."
    elif "deploy_key" in source and "PRIVATE KEY-----" not in source["deploy_key"]:
        yield (
            ("deploy_key",),
            "is not a private key: write its text, from -----BEGIN to END-----, encrypted with ansible-vault.",
        )
    elif asks:
        version = wanted or str(source.get("version", "HEAD"))
        yield from repository(str(source["git"]), version, source.get("deploy_key"))


def in_work_tree(folder: Path, version: str) -> bool:
    command = ["git", "-c", "safe.directory=*", "-C", folder, "cat-file", "-e", f"{version}:./"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def repository(url: str, version: str, deploy_key: str | None) -> Iterator[tuple[tuple, str]]:
    try:
        answer = ls_remote(url, deploy_key)
    except subprocess.TimeoutExpired:
        yield ("git",), f"names {url}, which does not answer within {SECONDS} s: correct it, or try again."
        return
    if answer.returncode:
        said = (answer.stderr.strip().splitlines() or ["nothing"])[0].rstrip(".")
        yield ("git",), f"names {url}, which cannot be read ({said}): correct it, or its deploy_key."
        return
    refs = {line.split("\t")[1] for line in answer.stdout.splitlines()}
    known = {ref.split("/", 2)[-1].removesuffix("^{}") for ref in refs} | refs
    # A commit need not be the head of anything, so git cannot be asked for it.
    if version not in known and not COMMIT.fullmatch(version):
        yield ("version",), f"is {version}, and {url} has no such branch or tag: correct it."


def ls_remote(url: str, deploy_key: str | None) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        ssh = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout={SECONDS}"
        if deploy_key:
            key = Path(folder) / "key"
            key.touch(mode=0o600)
            key.write_text(deploy_key.strip() + "\n")
            ssh += f" -o IdentitiesOnly=yes -i {key}"
        return subprocess.run(
            ["git", "ls-remote", "--", url],
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
