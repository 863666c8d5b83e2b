"""Whatever a project says its dependencies in, the builder makes their wheels: run in the build container itself.

Lock files are written by their own tools here, since they record where they got their packages from.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def lock_tools(builder):
    builder.must(f"[ -e {builder.tools} ] || python3 -m venv {builder.tools}; pip install --quiet uv poetry pipenv")


@pytest.fixture(scope="module")
def job(builder, lock_tools):
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
    code, said = builder.build(folder)
    assert code == 0, said
    members = builder.members(said)
    wheels = ["-".join(Path(member).name.split("-")[:2]) for member in members if member.endswith(".whl")]
    assert sorted(wheels) == FORMATS[name][2] and re.fullmatch(r"job-[0-9a-f]{12}\.tar", said.strip())


@pytest.mark.parametrize("name", LOCKED)
def test_a_package_that_is_not_the_locked_one_is_refused(builder, job, name):
    folder = job(name)
    builder.must("grep -rl sha256: . | xargs sed -Ei 's/sha256:.{8}/sha256:00000000/'", f"{folder}/source")
    builder.must("tar -C source -cf source.tar .", folder)
    code, said = builder.build(folder)
    assert code == 1 and "hash" in said.lower(), said
