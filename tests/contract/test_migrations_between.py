"""What a rollback is told of the migrations between two releases; each is a project with one application."""

import json
import sys
import textwrap

import pytest
from environments import ROOT
from programs import load

LIBRARY = ROOT / "roles/release/files/usr/local/lib/trestle/python"
FIRST = "migrations.CreateModel('Story', [('id', models.AutoField(primary_key=True)), ('title', models.TextField())])"


@pytest.fixture
def between(tmp_path, monkeypatch, capfd):
    """`migrate-release --between`, where a release is a folder beside the others."""
    program = load("release", "migrate-release")
    run = tmp_path / "site-run"
    run.write_text(
        f"#!/bin/sh\ncd {tmp_path}/$2 || exit 1\nshift 2\nshift\n"
        f'PYTHONPATH=.:{LIBRARY} DJANGO_SETTINGS_MODULE=settings exec {sys.executable} -B "$@"\n'
    )
    run.chmod(0o755)
    monkeypatch.setattr(program, "SITE_RUN", str(run))

    def ask(old, new):
        status = program.between("news", old, new)
        said = capfd.readouterr()
        return json.loads(said.out)["migrations"] if status == 0 else said.err

    return ask


@pytest.fixture
def release(tmp_path):
    def make(name, **migrations):
        folder = tmp_path / name / "stories/migrations"
        folder.mkdir(parents=True)
        for file in (folder / "__init__.py", folder.parent / "__init__.py"):
            file.touch()
        (tmp_path / name / "settings.py").write_text("INSTALLED_APPS = ['stories']\n")
        before = "[]"
        for migration, body in migrations.items():
            replaces, _, operations = body.rpartition("|")
            (folder / f"{migration}.py").write_text(
                textwrap.dedent(f"""
                from django.db import migrations, models

                class Migration(migrations.Migration):
                    dependencies = {"[]" if replaces else before}
                    replaces = {[("stories", name) for name in replaces.split()]}
                    operations = [{operations}]
                """)
            )
            before = f"[('stories', '{migration}')]"

    return make


def test_what_can_be_undone_is_told_without_a_reason(between, release):
    release("old", a_first=FIRST)
    release("new", a_first=FIRST, b_body="migrations.AddField('story', 'body', models.TextField(null=True))")
    assert between("old", "new") == [{"name": "stories.b_body", "irreversible": []}]
    assert between("new", "old") == []


@pytest.mark.parametrize(
    "operation, told",
    [
        ("migrations.RemoveField('story', 'title')", "Remove field title from story"),
        ("migrations.DeleteModel('Story')", "Delete model Story"),
        ("migrations.RunPython(print)", "Raw Python operation"),
        ("migrations.RunSQL('select 1')", "Raw SQL operation"),
        (
            "migrations.SeparateDatabaseAndState(database_operations=[migrations.RunSQL('select 1')])",
            "Raw SQL operation",
        ),
    ],
)
def test_what_cannot_be_undone_is_told(between, release, operation, told):
    release("old", a_first=FIRST)
    release("new", a_first=FIRST, b_next=operation)
    assert between("old", "new") == [{"name": "stories.b_next", "irreversible": [told]}]


@pytest.mark.parametrize(
    "operation",
    [
        "migrations.RunPython(print, migrations.RunPython.noop)",
        "migrations.RunSQL('select 1', 'select 1')",
        "migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField('story', 'title')])",
    ],
)
def test_what_takes_nothing_away_can_be_undone(between, release, operation):
    release("old", a_first=FIRST)
    release("new", a_first=FIRST, b_next=operation)
    assert between("old", "new")[0]["irreversible"] == []


def test_a_squashed_migration_is_nothing_new(between, release):
    release("old", a_first=FIRST, b_next="migrations.RunSQL('select 1')")
    release("new", a_squashed="a_first b_next|" + FIRST)
    assert between("old", "new") == []


def test_a_release_that_is_not_there_is_named(between, release):
    release("old", a_first=FIRST)
    assert "news: the migrations of the release gone cannot be read" in between("old", "gone")
