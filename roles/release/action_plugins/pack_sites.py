"""Pack each site's project into an archive named by its content. Options: ../library/pack_sites.py"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# What is no part of a project, wherever it lies in it.
LEFT_OUT = [".git", "__pycache__", "*.pyc", ".venv", "venv", "node_modules", "db.sqlite3", ".pytest_cache", ".DS_Store"]


def left_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)


def pack(folder: Path) -> bytes:
    """A tar of the folder that depends on nothing but names, contents and executable bits."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not left_out(name))
            links = [name for name in folders if (Path(parent) / name).is_symlink()]
            for name in sorted(files + links):
                path = Path(parent) / name
                if left_out(name) or not (path.is_file() or path.is_symlink()):
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


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise AnsibleActionFail(f"{' '.join(command)} failed: {done.stderr.strip()}")


def pack_git(url: str, version: str, clone: Path) -> bytes:
    """The same for one version of a git repository, of which a clone is kept."""
    if not clone.exists():
        clone.parent.mkdir(parents=True, exist_ok=True)
        run("git", "clone", "--quiet", "--mirror", url, str(clone))
    run("git", "-C", str(clone), "fetch", "--quiet", "--prune", "--tags", "origin", "+refs/*:refs/*")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.tar"
        run("git", "-C", str(clone), "archive", "--format=tar", f"--output={archive}", version)
        with tarfile.open(archive) as tar:
            tar.extractall(Path(folder) / "project", filter="tar")
        return pack(Path(folder) / "project")


class ActionModule(ActionBase):
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "sites": {"type": "list", "elements": "dict", "required": True},
                "repository": {"type": "path", "required": True},
                "cache": {"type": "path", "required": True},
                "packages": {"type": "list", "elements": "str", "required": True},
                "django_packages": {"type": "list", "elements": "str", "required": True},
            }
        )
        releases = [self.release(site, arguments) for site in arguments["sites"]]
        return result | {"changed": False, "releases": releases}

    def release(self, site: dict, arguments: dict) -> dict:
        cache = Path(arguments["cache"])
        content = self.content(site["name"], site["source"], Path(arguments["repository"]), cache / "git")
        django = site["app_type"] == "django"
        packages = [*site["packages"], *arguments["packages"], *(arguments["django_packages"] if django else [])]
        kind = json.dumps([packages, site["app_type"], site.get("settings_module")]).encode()
        release_id = hashlib.sha256(content + kind).hexdigest()[:12]
        archive = cache / "releases" / f"{release_id}.tar.gz"
        if not archive.exists():
            archive.parent.mkdir(parents=True, exist_ok=True)
            unfinished = archive.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(gzip.compress(content, mtime=0))
            unfinished.rename(archive)
        return {
            "site": site["name"],
            "id": release_id,
            "archive": str(archive),
            "app_type": site["app_type"],
            "packages": packages,
            "folder": f"/srv/{site['name']}/releases/{release_id}",
            "static": f"/srv/media/{site['name']}/static",
        }

    @staticmethod
    def content(name: str, source: dict, repository: Path, clones: Path) -> bytes:
        if "git" in source:
            url = str(source["git"])
            clone = clones / hashlib.sha256(url.encode()).hexdigest()[:12]
            return pack_git(url, str(source.get("version", "HEAD")), clone)
        if "path" not in source:
            raise AnsibleActionFail(f"sites.{name}.source names neither a path nor a git repository.")
        folder = repository / source["path"]
        if not folder.is_dir():
            raise AnsibleActionFail(f"sites.{name}.source.path: there is no folder {folder}.")
        return pack(folder)
