"""Judges and applies one migration after another, each on a database of its own: a process, started by the tests.

Arguments: a folder with a package for each case, of the base's migration and the case's; and where to write, as JSON,
how each was judged, what became of it when it was applied, allowed by name, and whether the running release works on.
"""

import contextlib
import io
import json
import sys
import traceback
from pathlib import Path

import django
from django.conf import settings
from django.core.management.commands import migrate
from django.db import connection, connections

django.setup()
from django.db.migrations.executor import MigrationExecutor  # noqa: E402
from trestle_migrations import MigrationError, Work  # noqa: E402

JOB = {"site": "news", "after": [], "wait": 1, "first": False, "asks": False}
JOB |= {"lock_timeout": 2, "attempts": 2, "pause": 0.1}


def use(database, package):
    connection.close()
    vars(connections["default"]).pop("SchemaEditorClass", None)
    migrate.MigrationExecutor = MigrationExecutor
    connection.settings_dict.update(NAME=database, OPTIONS={})
    settings.MIGRATION_MODULES = {"news": package}


def copy(name):
    use("postgres", "cases.base")
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE case_{name} TEMPLATE trestle")
    use(f"case_{name}", f"cases.{name}")


def run(check, allow=()):
    work = Work(JOB | {"check": check, "allow": allow})
    try:
        work.run()
    except MigrationError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return ""


def as_before():
    """What the running release does, by its own models."""
    models = MigrationExecutor(connection).loader.project_state([("news", "0001_base")]).apps
    author, story, tag = (models.get_model("news", name) for name in ("Author", "Story", "Tag"))
    try:
        one = story.objects.create(title="b", body="b", author=author.objects.first(), score=1, section="b")
        one.tags.add(tag.objects.create(name="b"))
        author.objects.create(name="b", known_email="b")
        for model in (author, story, tag):
            list(model.objects.all())
        story.objects.filter(tags__name="b").update(views=2)
        story.objects.exclude(title="a").delete()
    except Exception as error:
        return f"the running release: {error}"
    return ""


def main():
    sys.path.insert(0, sys.argv[1])
    sys.stdin = io.StringIO()
    verdicts = {}
    with contextlib.redirect_stdout(io.StringIO()):
        use("trestle", "cases.base")
        sys.stdin = io.StringIO("go\n")
        assert not run(check=False)
        models = MigrationExecutor(connection).loader.project_state([("news", "0001_base")]).apps
        author = models.get_model("news", "Author").objects.create(name="a", email="a", known_email="a")
        models.get_model("news", "Story").objects.create(title="a", body="a", author=author, score=1, section="a")
        for case in sorted(path.name for path in Path(sys.argv[1], "cases").iterdir() if path.is_dir()):
            if case in ("base", "__pycache__"):
                continue
            copy(case)
            refusal = run(check=True)
            use(f"case_{case}", f"cases.{case}")
            sys.stdin = io.StringIO("go\n")
            applied = run(check=False, allow=["news.0002_case"])
            left = len(MigrationExecutor(connection).migration_plan([("news", "0002_case")]))
            verdicts[case] = {
                "refusal": refusal,
                "applied": applied or ("it is not recorded" if left else ""),
                "before": as_before(),
            }
    Path(sys.argv[2]).write_text(json.dumps(verdicts))


if __name__ == "__main__":
    main()
