"""A project's node commands run before its static files are collected, and leave no node_modules in the artifact."""

from __future__ import annotations

import json

import pytest

PACKAGE = {
    "name": "front",
    "version": "1.0.0",
    "scripts": {"build": "mkdir -p ../static && node -e \"require('fs').writeFileSync('../static/app.js', 'built')\""},
    "dependencies": {"left-pad": "1.3.0"},
}
FOLDER = "/var/tmp/node-project"


@pytest.fixture
def project(builder):
    code, said = builder.container.exec_run(
        ["sh", "-c", "apt-get update -q && apt-get install -y -q --no-install-recommends nodejs npm"],
        environment={"DEBIAN_FRONTEND": "noninteractive"},
    )
    assert code == 0, said.decode()[-2000:]
    builder.must(f"mkdir -p {FOLDER}/source/front")
    builder.put({"source/front/package.json": json.dumps(PACKAGE), "source/requirements.txt": "iniconfig\n"}, FOLDER)
    # The lock file records where packages came from, so that it is made here.
    builder.must("npm install --package-lock-only --no-audit", f"{FOLDER}/source/front")
    builder.must("tar -C source -cf source.tar .", FOLDER)
    yield FOLDER
    builder.container.exec_run(["rm", "-rf", FOLDER], user="root")


def build(builder, node: dict) -> tuple[int, str]:
    builder.put({"job.json": json.dumps(builder.job | {"node": node})}, FOLDER)
    return builder.build(FOLDER)


def test_node_builds_before_static_files_are_collected(builder, project):
    code, said = build(builder, {"folder": "front"})
    assert code == 0, said
    members = builder.members(said)
    assert "project/static/app.js" in members
    assert not [member for member in members if "node_modules" in member]


def test_a_failing_node_build_ends_with_its_own_words(builder, project):
    code, said = build(builder, {"folder": "front", "commands": ["npm run nothing-of-that-name"]})
    assert code == 1 and "Missing script" in said, said
    code, said = build(builder, {"folder": "frontend"})
    assert code == 1 and "node.folder: the source has no folder frontend." in said, said
