"""Pack each site's source and say what is to be built of it. Options: ../library/pack_sites.py"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

DAY = 24 * 60 * 60
# No absolute names, and none that leave the folder. The Python of Debian 12 cannot tell yet.
FILTER = getattr(tarfile, "tar_filter", None)
# What is no part of a project, wherever it lies in it; in a git work tree, git knows.
LEFT_OUT = [".git", "__pycache__", "*.pyc", ".venv", "venv", "node_modules", "db.sqlite3", ".pytest_cache", ".DS_Store"]
# What of a site decides over its artifact, and what over nothing that is checked before a deploy.
BUILT_FROM = ["app_type", "dependency_file", "extras", "python_packages", "build_packages", "system_packages", "node"]
NOT_CHECKED = [
    "secret_key",
    "secret_key_fallbacks",
    "database_password",
    "s3",
    "programs",
    "gunicorn",
    "source",
    "after_migrate",
    "smoke_paths",
]


def digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def left_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)


def files_of(folder: Path) -> list[Path]:
    """The files and links of a folder that is in no git work tree."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not left_out(name))
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        found += [Path(parent) / name for name in sorted(files + links) if not left_out(name)]
    return found


def pack(files: dict[Path, list[Path]]) -> bytes:
    """A tar of files of each folder, which depends on nothing but names, contents and executable bits."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, folder in sorted((path, folder) for folder, paths in files.items() for path in paths):
            if not (path.is_file() or path.is_symlink()):
                continue
            info = tar.gettarinfo(path, str(path.relative_to(folder)))
            if info.islnk():  # a second name of the same file is a file here
                info.type, info.linkname, info.size = tarfile.REGTYPE, "", path.stat().st_size
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            info.mode = 0o755 if info.mode & 0o100 else 0o644
            if info.isreg():
                with path.open("rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info)
    return buffer.getvalue()


def git(*arguments: str, key: str | None = None) -> str:
    """git's answer. Work trees of other owners are read too, as those of the engineer who uses sudo."""
    with contextlib.ExitStack() as stack:
        environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        if key:
            file = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="deploy-key-"))  # mode 0600
            file.write(key.rstrip() + "\n")
            file.flush()
            environment["GIT_SSH_COMMAND"] = (
                f"ssh -i {file.name} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
            )
        command = ["git", "-c", "safe.directory=*", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        said = f"git {' '.join(arguments)} failed: {done.stderr.strip()}"
        raise AnsibleActionFail(re.sub(r"://[^@/\s]*@", "://", said))  # a password in an address
    return done.stdout


class Source:
    """What a site is made of: ``content`` (a tar), ``version`` and, from an index, ``requirement``."""

    def __init__(self, site: dict, arguments: dict):
        self.where, self.source, self.arguments = f"sites.{site['name']}.source", site["source"], arguments
        # Asked for instead of what the inventory names.
        self.wanted = arguments["versions"].get(site["name"], "")
        self.requirement = self.version = ""
        read = {"path": self.folder, "git": self.repository, "pypi": self.package}
        kinds = [kind for kind in read if kind in self.source]
        if len(kinds) != 1:
            raise AnsibleActionFail(f"{self.where} names {len(kinds) or 'none'} of path, git and pypi: name one.")
        self.content = read[kinds[0]]()

    def folder(self) -> bytes:
        folder = Path(self.arguments["repository"]) / self.source["path"]
        if not folder.is_dir():
            raise AnsibleActionFail(f"{self.where}.path: there is no folder {folder}.")
        if self.wanted:
            return self.folder_at(folder)
        try:
            tracked = git("-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        except AnsibleActionFail:
            tracked = ""
        if not tracked:
            return pack({folder: files_of(folder)})  # in no git work tree, or ignored by it
        changes = git("-C", str(folder), "status", "--porcelain", "--", ".").splitlines()
        if changes and not self.arguments["dirty"]:
            raise AnsibleActionFail(
                f"{self.where}.path: {folder} has {len(changes)} changes that are not committed "
                f"(the first: {changes[0].strip()}): commit them, or allow it with build_dirty_sources: true."
            )
        self.version = git("-C", str(folder), "log", "-1", "--format=%h", "--", ".").strip() + "+" * bool(changes)
        return pack({folder: [folder / name for name in tracked.split("\0") if name]})

    def folder_at(self, folder: Path) -> bytes:
        """A folder as it was in one version of its work tree, which itself is not looked at."""
        try:
            commit = git("-C", str(folder), "rev-parse", "--verify", "--quiet", f"{self.wanted}^{{commit}}").strip()
            with self.checkout(folder, commit) as project:
                self.name_version(commit, self.wanted)
                return pack({project: [path for path in project.rglob("*") if path.is_symlink() or path.is_file()]})
        except AnsibleActionFail as error:
            said = f"{self.where}.path: {folder} is in no git work tree that has it in a version {self.wanted}."
            raise AnsibleActionFail(said) from error

    @staticmethod
    @contextlib.contextmanager
    def checkout(where: Path, commit: str) -> Iterator[Path]:
        """A folder of a work tree, or a whole repository, as it was in a commit."""
        with tempfile.TemporaryDirectory() as temporary:
            archive, project = Path(temporary) / "archive.tar", Path(temporary) / "project"
            git("-C", str(where), "archive", "--format=tar", f"--output={archive}", commit)
            with tarfile.open(archive) as tar:
                tar.extraction_filter = FILTER
                tar.extractall(project)
            yield project

    def name_version(self, commit: str, wanted: str) -> None:
        self.version = commit[:10] if wanted == "HEAD" or commit.startswith(wanted) else f"{wanted} ({commit[:10]})"

    def repository(self) -> bytes:
        """One version of a git repository, of which a clone is kept."""
        url, wanted = str(self.source["git"]), self.wanted or str(self.source.get("version", "HEAD"))
        key = self.source.get("deploy_key")
        clone = Path(self.arguments["cache"]) / "git" / digest(url)[:12]
        if not clone.exists():
            clone.parent.mkdir(parents=True, exist_ok=True)
            git("clone", "--quiet", "--mirror", url, str(clone), key=key)
        elif not self.has(clone, wanted):
            git("-C", str(clone), "fetch", "--quiet", "--prune", "--tags", "origin", "+refs/*:refs/*", key=key)
        os.utime(clone)
        try:
            commit = git("-C", str(clone), "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}").strip()
        except AnsibleActionFail as error:
            raise AnsibleActionFail(f"{self.where}.version: {url} has no version {wanted}.") from error
        self.name_version(commit, wanted)
        with self.checkout(clone, commit) as project:
            folder = project / self.source.get("folder", ".")
            if not folder.is_dir():
                raise AnsibleActionFail(f"{self.where}.folder: {url} has no folder {self.source['folder']}.")
            return pack({folder: files_of(folder)})

    @staticmethod
    def has(clone: Path, version: str) -> bool:
        """A commit never changes; a branch or a tag may."""
        if not re.fullmatch(r"[0-9a-f]{40}", version):
            return False
        with contextlib.suppress(AnsibleActionFail):
            return bool(git("-C", str(clone), "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}"))
        return False

    def package(self) -> bytes:
        requirement = Requirement(str(self.source["pypi"]))
        if self.wanted:
            try:
                requirement.specifier = SpecifierSet(f"=={self.wanted}")
            except InvalidSpecifier as error:
                raise AnsibleActionFail(f"{self.where}.pypi: {self.wanted} is no version of a package.") from error
        self.requirement = self.version = str(requirement) if self.wanted else str(self.source["pypi"])
        return pack({})


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """A whole file or none."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.touch(mode=mode)
    unfinished.write_bytes(content)
    unfinished.rename(path)


def pack_folders(folders: list[str]) -> bytes:
    return pack({folder: files_of(folder) for folder in map(Path, folders)})


def pack_files(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def tidy(cache: Path, releases: list[dict], days: int) -> None:
    """Remove the artifacts, jobs and clones that no run wanted for so many days."""
    for release in releases:
        wanted = [f"{release['key']}-*.tar" if release["key"] else f"*-{release['id']}.tar"]
        for pattern in [*wanted, f"*-{release['configuration']}.tar.gz"]:
            for path in (cache / "artifacts").glob(pattern):
                os.utime(path)
    for path in cache.glob("*/*"):
        if path.parent.name in ("artifacts", "jobs", "git") and path.stat().st_mtime < time.time() - days * DAY:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class ActionModule(ActionBase):
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        required = {"required": True}
        _, arguments = self.validate_argument_spec(
            {
                "sites": required | {"type": "list", "elements": "dict"},
                "repository": required | {"type": "path"},
                "cache": required | {"type": "path"},
                "programs": required | {"type": "dict"},
                "cache_days": {"type": "int", "default": 30},
                "builder": required | {"type": "path"},
                "python": required | {"type": "str"},
                "python_packages": required | {"type": "list", "elements": "str"},
                "django_packages": required | {"type": "list", "elements": "str"},
                "s3_packages": {"type": "list", "elements": "str", "default": []},
                "tools": required | {"type": "dict"},
                "versions": {"type": "dict", "default": {}},
                "pins": {"type": "dict", "default": {}},
                "dirty": {"type": "bool", "default": False},
            }
        )
        archives = {name: pack_folders(folders) for name, folders in arguments["programs"].items()}
        self.programs = hashlib.sha256(archives["build"]).hexdigest()
        self.builder = hashlib.sha256(Path(arguments["builder"]).read_bytes()).hexdigest()
        cache = Path(arguments["cache"])
        (cache / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, archive in archives.items():
            write(cache / f"jobs/{name}.tar", archive)
        releases = [self.release(site, arguments) for site in arguments["sites"]]
        tidy(cache, releases, arguments["cache_days"])
        programs = {name: str(cache / f"jobs/{name}.tar") for name in archives}
        return result | {"changed": False, "programs": programs, "digest": self.programs, "releases": releases}

    def release(self, site: dict, arguments: dict) -> dict:
        checked = {name: value for name, value in site.items() if name not in NOT_CHECKED}
        release = {
            "site": site["name"],
            "app_type": site["app_type"],
            "configuration": digest(checked, self.programs)[:10],
            # Whether it was chosen, so that it stays whatever the inventory names.
            "chosen": site["name"] in arguments["versions"] | arguments["pins"],
        }
        if site["name"] in arguments["pins"]:
            pin = arguments["pins"][site["name"]]
            return release | {"version": pin["version"], "id": pin["id"], "key": "", "job": ""}
        return release | self.job(site, arguments)

    def job(self, site: dict, arguments: dict) -> dict:
        """The version, key and job (an archive) of what is to be built where nobody has it."""
        source = Source(site, arguments)
        packages = arguments["python_packages"]
        if site["app_type"] == "django":
            packages = packages + arguments["django_packages"]
            packages += arguments["s3_packages"] * (site["media_storage"] == "s3")
        job = {key: site[key] for key in ["index_url", "extra_index_urls", *BUILT_FROM]} | {
            "site": site["name"],
            "version": source.version,
            "requirement": source.requirement,
            "default_packages": packages,
            "tools": arguments["tools"],
        }
        content = hashlib.sha256(source.content).hexdigest()
        # Where the packages come from is no part of what they are, and may hold a password.
        decides = {key: job[key] for key in [*BUILT_FROM, "requirement", "default_packages", "tools"]}
        key = digest(content, decides, arguments["python"], self.builder)[:16]
        archive = Path(arguments["cache"]) / "jobs" / f"{key}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files = {"job.json": json.dumps(job).encode(), "source.tar": source.content}
        write(archive, pack_files(files), 0o600)
        return {"version": source.version, "key": key, "job": str(archive)}
