"""Whatever a project says its dependencies in, the builder makes their wheels: run in the build container itself.

Lock files are written by their own tools here, since they record where they got their packages from.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import uuid
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lab import containers  # noqa: E402

HOME = "/var/lib/trestle/build"
BUILD = "/usr/local/lib/trestle/build-artifact"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TOOLS = "/var/tmp/lock-tools"
INDEX = "python -c 'from pip._internal.models.index import PyPI as index; print(index.simple_url)'"
PYPROJECT = """
[project]
name = "tidings"
version = "1.0"
requires-python = ">=3.13"
dependencies = ["iniconfig==2.0.0"]
[project.optional-dependencies]
extra = ["six==1.16.0"]
"""
BUILD_SYSTEM = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
PIPFILE = '[packages]\niniconfig = "==2.0.0"\n'

# What the project has, how its lock file is made, and the wheels that are wanted of it.
FORMATS = {
    "requirements.txt": ({"requirements.txt": "iniconfig==2.0.0\n"}, "", ["iniconfig-2.0.0"]),
    "requirements.txt with hashes": (
        {"requirements.in": "iniconfig==2.0.0\n"},
        "uv pip compile --quiet --generate-hashes --output-file requirements.txt requirements.in",
        ["iniconfig-2.0.0"],
    ),
    "pyproject.toml": ({"pyproject.toml": PYPROJECT}, "", ["iniconfig-2.0.0", "six-1.16.0"]),
    "pyproject.toml of a package": (
        {"pyproject.toml": PYPROJECT + BUILD_SYSTEM, "src/tidings/__init__.py": ""},
        "",
        ["iniconfig-2.0.0", "six-1.16.0", "tidings-1.0"],
    ),
    "uv.lock": ({"pyproject.toml": PYPROJECT}, "uv lock --quiet", ["iniconfig-2.0.0", "six-1.16.0"]),
    "poetry.lock": (
        {"pyproject.toml": PYPROJECT},
        # pip's index, by the pages that pip reads: not every mirror has poetry's.
        f"poetry source add --quiet --priority=primary index $({INDEX}) && poetry lock --quiet",
        ["iniconfig-2.0.0", "six-1.16.0"],
    ),
    "Pipfile.lock": ({"Pipfile": PIPFILE}, "pipenv lock --quiet", ["iniconfig-2.0.0"]),
}
LOCKED = [name for name, (_, lock, _) in FORMATS.items() if lock]


class Builder:
    """The build container, as the role `build` leaves it."""

    def __init__(self):
        lab = containers.Lab(os.environ.get("ENV", "dev"))
        self.container = lab.client.containers.get(lab.build_container)
        defaults = yaml.safe_load((ROOT / "roles/build/defaults/main.yml").read_text())
        site = yaml.safe_load((ROOT / "group_vars/all/sites.yml").read_text())["site_defaults"]
        self.job = site | {
            "site": "tidings",
            "app_type": "wsgi",
            "version": "",
            "requirement": "",
            "default_packages": [],
            "tools": defaults["build_tools"],
        }

    def run(self, command: str, folder: str = "/") -> tuple[int, str]:
        environment = {
            "HOME": HOME,
            "PATH": f"{TOOLS}/bin:/usr/bin:/bin",
            # The tools bring authorities of their own; the container may have more.
            "SSL_CERT_FILE": CERTIFICATES,
            "REQUESTS_CA_BUNDLE": CERTIFICATES,
        }
        done = self.container.exec_run(
            ["sh", "-ec", command], user="trestle-build", workdir=folder, environment=environment
        )
        return done.exit_code, done.output.decode()

    def must(self, command: str, folder: str = "/") -> str:
        code, said = self.run(command, folder)
        assert code == 0, f"{command}\n{said}"
        return said

    def put(self, files: dict[str, str], folder: str) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(text), 0o666
                tar.addfile(info, io.BytesIO(text.encode()))
        self.container.put_archive(folder, archive.getvalue())


@pytest.fixture(scope="module")
def builder():
    builder = Builder()
    builder.must(f"[ -e {TOOLS} ] || python3 -m venv {TOOLS}; pip install --quiet uv poetry pipenv")
    return builder


@pytest.fixture(scope="module")
def job(builder):
    """job("uv.lock"): a job made of a project with such a file; its folder in the container."""
    made: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in made:
            files, lock, wheels = FORMATS[name]
            folder = made[name] = f"/var/tmp/{uuid.uuid4().hex}"
            extras = ["extra"] if "six-1.16.0" in wheels else []
            builder.must(f"mkdir -p {folder}/source")
            builder.put({f"source/{path}": text for path, text in files.items()}, folder)
            builder.put({"job.json": json.dumps(builder.job | {"extras": extras})}, folder)
            builder.must(lock or ":", f"{folder}/source")
            builder.must("tar -C source -cf source.tar .", folder)
        return made[name]

    yield make
    builder.container.exec_run(["rm", "-rf", *made.values()], user="root")


@pytest.mark.parametrize("name", FORMATS)
def test_the_wheels_of_what_it_names_are_built(builder, job, name):
    folder = job(name)
    said = json.loads(builder.must(f"{BUILD} {folder}"))
    members = builder.must(f"tar -tf {folder}/artifact.tar").splitlines()
    wheels = ["-".join(Path(member).name.split("-")[:2]) for member in members if member.endswith(".whl")]
    assert sorted(wheels) == FORMATS[name][2] and len(said["id"]) == 12


@pytest.mark.parametrize("name", LOCKED)
def test_a_package_that_is_not_the_locked_one_is_refused(builder, job, name):
    folder = job(name)
    builder.must("grep -rl sha256: . | xargs sed -Ei 's/sha256:.{8}/sha256:00000000/'", f"{folder}/source")
    builder.must("tar -C source -cf source.tar .", folder)
    code, said = builder.run(f"{BUILD} {folder}")
    assert code == 1 and "hash" in said.lower(), said
