"""migrate-release on a PostgreSQL: what it refuses, what it lets pass, and what it does when a lock is not had."""

import fcntl
import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import postgres
import psycopg
import pytest
from environments import ROOT
from programs import load

HERE = ROOT / "tests/contract"
LIBRARY = ROOT / "roles/release/files/usr/local/lib/trestle/python"

HEAD = """
from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import RangeOperators
from django.contrib.postgres import operations as postgres
from django.contrib.postgres.functions import RandomUUID
from django.db import migrations, models
from django.db.migrations import *
from django.db.models import *
from django.db.models.functions import Lower, Now
from django.utils import timezone
"""
BASE = """
class Migration(migrations.Migration):
    initial = True
    operations = [
        CreateModel("Author", [
            ("id", AutoField(primary_key=True)),
            ("name", CharField(max_length=100)),
            ("email", CharField(max_length=100, null=True)),
            ("known_email", CharField(max_length=100, null=True)),
        ]),
        CreateModel("Tag", [("id", AutoField(primary_key=True)), ("name", CharField(max_length=100))]),
        CreateModel("Story", [
            ("id", AutoField(primary_key=True)),
            ("title", CharField(max_length=100, db_index=True)),
            ("body", TextField()),
            ("slug", CharField(max_length=50, null=True)),
            ("views", IntegerField(default=0)),
            ("score", DecimalField(max_digits=6, decimal_places=2)),
            ("section", CharField(max_length=20, unique=True)),
            ("published", DateTimeField(null=True)),
            ("stars", IntegerField(db_default=3)),
            ("author", ForeignKey("news.Author", CASCADE)),
            ("tags", ManyToManyField("news.Tag")),
        ], options={"indexes": [Index(fields=["views"], name="by_views")]}),
        RunSQL("CREATE TABLE news_plain (id int, old text)"),
        RunSQL("ALTER TABLE news_author ADD CONSTRAINT known CHECK (known_email IS NOT NULL)"),
    ]
"""


def operation(name, text, *words, head="", atomic=True):
    return pytest.param({"head": head, "operations": text, "atomic": atomic}, words, id=name)


REWRITES, USED, RENAMED = "written anew", "still uses it", "knows the old name"
UNSAFE = [
    operation("field_not_null", "AddField('story', 'note', TextField(default=''))", "does not fill it", "db_default"),
    operation("field_auto", "AddField('tag', 'rank', BigIntegerField())", "does not fill it"),
    operation("field_volatile", "AddField('story', 'uuid', UUIDField(db_default=RandomUUID()))", REWRITES),
    operation(
        "field_generated",
        "AddField('story', 'loud', GeneratedField(expression=Lower('title'), output_field=F, db_persist=True))",
        REWRITES,
        head="F = TextField()",
    ),
    operation("remove_field", "RemoveField('story', 'body')", USED, "Remove field body from story"),
    operation("remove_foreign_key", "RemoveField('story', 'author')", USED),
    operation("remove_many_to_many", "RemoveField('story', 'tags')", USED),
    operation("delete_model", "DeleteModel('Story')", USED, "Delete model Story"),
    operation("rename_field", "RenameField('story', 'body', 'text')", RENAMED, "db_column"),
    operation("rename_model", "RenameModel('Author', 'Writer')", RENAMED, "db_table"),
    operation("rename_table", "AlterModelTable('Author', 'writers')", RENAMED),
    operation("rename_column", "AlterField('story', 'body', TextField(db_column='text'))", RENAMED),
    operation("bigger_integer", "AlterField('story', 'views', BigIntegerField(default=0))", REWRITES),
    operation("bigger_key", "AlterField('tag', 'id', BigAutoField(primary_key=True))", REWRITES),
    operation("shorter_text", "AlterField('story', 'title', CharField(max_length=50))", REWRITES),
    operation("other_type", "AlterField('story', 'views', DecimalField(max_digits=9, decimal_places=2))", REWRITES),
    operation("collation", "AlterField('story', 'body', TextField(db_collation='C'))", REWRITES),
    operation("set_not_null", "AlterField('author', 'email', CharField(max_length=100))", "may still write NULL"),
    operation("drop_db_default", "AlterField('story', 'stars', IntegerField())", "leaves it to the database's default"),
    operation(
        "exclusion",
        "AddConstraint('story', ExclusionConstraint(name='apart', expressions=[(RANGE, RangeOperators.OVERLAPS)]))",
        "nobody can use the table",
        head="RANGE = Func(F('views'), F('views'), function='int4range')",
    ),
    operation("sql_index", "RunSQL('CREATE INDEX by_body ON news_story (body)')", "CONCURRENTLY"),
    operation("sql_drop_column", "RunSQL('ALTER TABLE news_story DROP COLUMN slug')", USED),
    operation("sql_drop_table", "RunSQL('DROP TABLE news_story_tags')", USED),
    operation("sql_drop_second_table", "RunSQL('DROP TABLE IF EXISTS news_plain, news_story_tags CASCADE')", USED),
    operation("sql_lock_second_table", "RunSQL('CREATE TABLE own (id int); LOCK own, news_story')", "quiet hour"),
    operation(
        "sql_do",
        "RunSQL('DO $$ BEGIN IF true THEN ALTER TABLE news_story DROP COLUMN slug; END IF; END $$')",
        USED,
    ),
    operation(
        "sql_do_hidden",
        """RunSQL("DO LANGUAGE plpgsql $x$ BEGIN EXECUTE format('DROP TABLE %s', 'news_plain'); END $x$")""",
        "nobody can say what it does",
    ),
    operation(
        "sql_do_text", "RunSQL(\"DO 'BEGIN DROP TABLE IF EXISTS news_plain; END'\")", "nobody can say what it does"
    ),
    operation(
        "sql_do_language",
        "RunSQL(\"DO LANGUAGE 'plpgsql' $$ BEGIN ALTER TABLE news_story DROP COLUMN slug; END $$\")",
        USED,
    ),
    operation(
        "sql_do_loop",
        "RunSQL(\"DO $$ DECLARE r record; BEGIN FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP; END $$\")",
        "nobody can say what it does",
    ),
    operation("sql_type", "RunSQL('ALTER TABLE news_story ALTER COLUMN views TYPE bigint')", REWRITES),
    operation("sql_not_null", "RunSQL('ALTER TABLE news_author ALTER email SET NOT NULL')", "may still write NULL"),
    operation("sql_add_not_null", "RunSQL('ALTER TABLE news_tag ADD rank int NOT NULL')", "does not fill it"),
    operation(
        "sql_add_beside_a_default",
        "RunSQL('ALTER TABLE news_tag ADD rank int NOT NULL, ADD n int DEFAULT 1')",
        "fill it",
    ),
    operation("sql_schema", "RunSQL('CREATE SCHEMA s; ALTER TABLE news_tag SET SCHEMA s')", RENAMED),
    operation("sql_check", "RunSQL('ALTER TABLE news_story ADD CONSTRAINT c CHECK (views >= 0)')", "NOT VALID"),
    operation(
        "sql_foreign_key",
        "RunSQL('ALTER TABLE news_story ADD CONSTRAINT f FOREIGN KEY (views) REFERENCES news_story NOT VALID;"
        " ALTER TABLE news_story ADD FOREIGN KEY (id) REFERENCES news_story')",
        "NOT VALID",
    ),
    operation("sql_unique", "RunSQL('ALTER TABLE news_story ADD CONSTRAINT u UNIQUE (title)')", "USING INDEX"),
    operation("sql_rename", "RunSQL('ALTER TABLE news_story RENAME COLUMN body TO text')", RENAMED),
    operation("sql_rename_table", "RunSQL('ALTER TABLE public.news_tag RENAME TO labels')", RENAMED),
    operation("sql_truncate", "RunSQL('/* all */ truncate news_story_tags')", "nobody can use the table"),
    operation("sql_lock", "RunSQL('LOCK TABLE news_story')", "nobody can use the table"),
    operation("sql_reindex", "RunSQL('REINDEX TABLE news_story')", "CONCURRENTLY"),
    operation("sql_serial", "RunSQL('ALTER TABLE news_story ADD COLUMN n serial')", REWRITES),
    operation(
        "own_operation",
        "Own()",
        USED,
        head="""
            class Own(operations.base.Operation):
                def state_forwards(self, app_label, state): pass
                def database_forwards(self, app_label, editor, before, after):
                    editor.execute("ALTER TABLE news_story DROP COLUMN slug")
        """,
    ),
    operation(
        "passes_by_the_editor",
        "Own()",
        "nobody can say what it does",
        "read-only transaction",
        head="""
            class Own(operations.base.Operation):
                def state_forwards(self, app_label, state): pass
                def database_forwards(self, app_label, editor, before, after):
                    with editor.connection.cursor() as cursor:
                        cursor.execute("UPDATE news_story SET views = 7")
        """,
    ),
    operation(
        "within_separate",
        "SeparateDatabaseAndState(database_operations=[RemoveField('story', 'slug')])",
        USED,
    ),
    operation(
        "drop_in_the_same_plan",
        "SeparateDatabaseAndState(state_operations=[RemoveField('story', 'slug')]),"
        "RunSQL('ALTER TABLE news_story DROP COLUMN slug')",
        USED,
    ),
]
CODE = """
    def fill(apps, schema_editor):
        apps.get_model("news", "Story").objects.update(slug="filled")
"""
SAFE = [
    operation("field_null", "AddField('story', 'note', TextField(null=True))"),
    operation("field_null_default", "AddField('story', 'note', TextField(null=True, default='x'))"),
    operation("field_db_default", "AddField('story', 'rank', IntegerField(db_default=1))"),
    operation("field_now", "AddField('story', 'seen', DateTimeField(db_default=Now()))"),
    operation("field_unique", "AddField('story', 'code', CharField(max_length=9, null=True, unique=True))"),
    operation(
        "foreign_key", "AddField('story', 'editor', ForeignKey('news.Author', SET_NULL, null=True, related_name='+'))"
    ),
    operation("many_to_many", "AddField('author', 'tags', ManyToManyField('news.Tag'))"),
    operation("index", "AddIndex('story', Index(fields=['published'], name='by_date'))"),
    operation(
        "index_concurrently",
        "postgres.AddIndexConcurrently('story', Index(fields=['published'], name='by_date'))",
        atomic=False,
    ),
    operation("index_of_a_field", "AlterField('story', 'slug', CharField(max_length=50, null=True, db_index=True))"),
    operation("remove_index", "RemoveIndex('story', 'by_views')"),
    operation("rename_index", "RenameIndex('story', 'views_index', old_name='by_views')"),
    operation("unique", "AddConstraint('story', UniqueConstraint(fields=['title', 'section'], name='once'))"),
    operation(
        "unique_where", "AddConstraint('story', UniqueConstraint(fields=['title'], condition=Q(views=9), name='o'))"
    ),
    operation("unique_together", "AlterUniqueTogether('story', {('title', 'section')})"),
    operation("check", "AddConstraint('story', CheckConstraint(condition=Q(views__gte=0), name='positive'))"),
    operation(
        "check_not_valid",
        "postgres.AddConstraintNotValid('story', CheckConstraint(condition=Q(views__gte=0), name='positive')),"
        "postgres.ValidateConstraint('story', 'positive')",
    ),
    operation("remove_unique", "AlterField('story', 'section', CharField(max_length=20))"),
    operation("longer_text", "AlterField('story', 'title', CharField(max_length=200, db_index=True))"),
    operation("unlimited_text", "AlterField('story', 'section', TextField(unique=True))"),
    operation("more_digits", "AlterField('story', 'score', DecimalField(max_digits=9, decimal_places=2))"),
    operation("drop_not_null", "AlterField('story', 'body', TextField(null=True))"),
    operation("choices", "AlterField('story', 'views', IntegerField(default=1, choices=[(1, 'one')], help_text='x'))"),
    operation("proven_not_null", "AlterField('author', 'known_email', CharField(max_length=100))"),
    operation("comment", "AlterModelTableComment('story', 'what is read')"),
    operation("options", "AlterModelOptions('story', {'ordering': ['title']})"),
    operation("new_model", "CreateModel('Draft', [('id', BigAutoField(primary_key=True)), ('text', TextField())])"),
    operation(
        "anything_to_a_new_model",
        "CreateModel('Draft', [('id', AutoField(primary_key=True)), ('text', TextField())]),"
        "AddField('draft', 'of', ManyToManyField('Tag')), AddField('draft', 'title', TextField(default='')),"
        "RenameField('draft', 'text', 'body'),"
        "AlterField('draft', 'id', BigAutoField(primary_key=True)), AlterModelTable('draft', 'drafts'),"
        "AddIndex('draft', Index(fields=['title'], name='draft_title')), RemoveField('draft', 'of'),"
        "RunSQL('CREATE INDEX draft_body ON drafts (body)'), RenameModel('Draft', 'Sketch')",
    ),
    operation("state_only", "SeparateDatabaseAndState(state_operations=[RemoveField('story', 'slug')])"),
    operation("delete_a_new_model", "CreateModel('Gone', [('id', AutoField(primary_key=True))]), DeleteModel('Gone')"),
    operation("code", "RunPython(fill)", head=CODE),
    operation("sql_index_concurrently", "RunSQL('CREATE INDEX CONCURRENTLY b ON news_story (views)')", atomic=False),
    operation("sql_null_column", "RunSQL('ALTER TABLE news_story ADD COLUMN note text')"),
    operation("sql_default_column", "RunSQL(\"ALTER TABLE news_story ADD COLUMN note text NOT NULL DEFAULT ''\")"),
    operation("sql_drop_unknown_column", "RunSQL('ALTER TABLE news_plain DROP COLUMN old')"),
    operation("sql_drop_unknown_table", "RunSQL('DROP TABLE news_plain')"),
    operation(
        "sql_not_valid_among_others",
        "RunSQL('ALTER TABLE news_story ADD note text, ADD CONSTRAINT c CHECK (views IN (0, 1, 2)) NOT VALID')",
    ),
    operation("sql_not_valid", "RunSQL('ALTER TABLE news_story ADD CONSTRAINT c CHECK (views >= 0) NOT VALID')"),
    operation("sql_do_data", "RunSQL('DO $$ BEGIN UPDATE news_story SET views = 0 WHERE views < 0; END $$')"),
    operation("sql_drop_unknown_tables", "RunSQL('DROP TABLE IF EXISTS news_plain, news_other')"),
    operation(
        "sql_in_words",
        """RunSQL("INSERT INTO news_tag (name) VALUES ('x; LOCK TABLE news_story'); -- DROP TABLE news_tag")""",
    ),
]


def write(folder, name, head, operations, atomic=True):
    """A package of migrations: the base, and one more where there is one."""
    package = folder / "cases" / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "0001_base.py").write_text(HEAD + BASE)
    if operations:
        (package / "0002_case.py").write_text(
            f"{HEAD}\n{textwrap.dedent(head)}\n\nclass Migration(migrations.Migration):\n    atomic = {atomic}\n"
            f"    dependencies = [('news', '0001_base')]\n    operations = [{operations}]\n"
        )


@pytest.fixture(scope="module")
def server():
    with postgres.cluster() as folder:
        yield folder


@pytest.fixture(scope="module")
def project(server, tmp_path_factory):
    """A project with one application, `news`, on that server; its migrations are where MIGRATIONS says."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "news").mkdir()
    (folder / "cases").mkdir()
    for package in ("news", "cases"):
        (folder / package / "__init__.py").touch()
    (folder / "settings.py").write_text(
        "import os\nINSTALLED_APPS = ['news', 'django.contrib.postgres']\nUSE_TZ = True\n"
        "MIGRATION_MODULES = {'news': os.environ.get('MIGRATIONS', 'cases.base')}\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', "
        f"'HOST': '{server}', 'USER': 'postgres', "
        "'NAME': os.environ.get('DATABASE', 'postgres')}}\n"
    )
    write(folder, "base", "", "")
    return folder


def environment(project, **more):
    path = os.pathsep.join(map(str, [project, LIBRARY]))
    return (
        os.environ | {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONDONTWRITEBYTECODE": "1"} | more
    )


@pytest.fixture(scope="module")
def verdicts(request, tmp_path_factory):
    """What became of every case: judged, applied with its name allowed, and used by the running release."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    answer = folder / "verdicts.json"
    with open(folder / "verdicts.lock", "w") as lock:  # one worker does it for all
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            judge(request.getfixturevalue("server"), request.getfixturevalue("project"), answer)
    return json.loads(answer.read_text())


def judge(server, project, answer):
    with psycopg.connect(host=server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE trestle")
    for case in (*UNSAFE, *SAFE):
        write(project, case.id, *case.values[0].values())
    driver = subprocess.run(
        [sys.executable, HERE / "migration_driver.py", project, answer],
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert driver.returncode == 0, driver.stdout


@pytest.fixture
def verdict(request, verdicts):
    return verdicts[request.node.callspec.id]


@pytest.mark.parametrize("case, words", UNSAFE)
def test_an_unsafe_operation_is_refused_in_one_sentence(case, words, verdict):
    sentences = verdict["refusal"].splitlines()
    assert len(sentences) == 1, verdict["refusal"]
    for word in (
        "news.0002_case is refused (",
        "or name news.0002_case in sites.news.allow_unsafe_migrations.",
        *words,
    ):
        assert word in sentences[0]


@pytest.mark.parametrize("case, words", UNSAFE)
def test_an_unsafe_operation_that_is_named_is_applied(case, words, verdict):
    assert verdict["applied"] == ""


@pytest.mark.parametrize("case, words", SAFE)
def test_a_safe_operation_is_applied_and_the_running_release_goes_on(case, words, verdict):
    assert (verdict["refusal"], verdict["applied"], verdict["before"]) == ("", "", "")


BREAKS = (USED, RENAMED, "does not fill it", "may still write NULL", "leaves it to the database's default")


@pytest.mark.parametrize("case, words", [param for param in UNSAFE if set(param.values[1]) & set(BREAKS)])
def test_what_is_refused_for_the_running_release_would_break_it(case, words, verdict):
    assert verdict["before"].startswith("the running release: "), verdict


class Site:
    """A site's folder on a web host, with one release; its program is called as a deploy calls it."""

    def __init__(self, folder, project, database, monkeypatch):
        self.folder, self.project, self.database = folder, project, database
        self.program = load("release", "migrate-release")
        (folder / "news/releases/one").mkdir(parents=True)
        (folder / "news/releases/one/.ready").touch()
        monkeypatch.setattr(self.program.release_store, "SRV", folder)
        monkeypatch.setattr(self.program, "SITE_RUN", str(folder / "site-run"))
        self.options = {"check": False, "wait": 0.5, "lock_timeout": 0.4, "attempts": 3, "pause": 0.2}

    def has(self, name, operations="", head="", atomic=True, third=""):
        write(self.project, name, head, operations, atomic)
        if third:
            (self.project / f"cases/{name}/0003_third.py").write_text(
                f"{HEAD}\nclass Migration(migrations.Migration):\n    dependencies = [('news', '0002_case')]\n"
                f"    operations = [{third}]\n"
            )
        path = os.pathsep.join(map(str, [self.project, LIBRARY]))
        (self.folder / "site-run").write_text(
            f"#!/bin/sh\nshift 3\nexport PYTHONPATH={path} DJANGO_SETTINGS_MODULE=settings PYTHONDONTWRITEBYTECODE=1\n"
            f'export DATABASE={self.database} MIGRATIONS=cases.{name}\nexec {sys.executable} "$@"\n'
        )
        (self.folder / "site-run").chmod(0o755)
        return self

    def migrate(self, *allow, after=(), **options):
        return self.program.migrate(
            [{"site": "news", "release": "one", "after": list(after), "allow": list(allow)}], self.options | options
        )


@pytest.fixture
def database(request, server):
    """A database of the test's own, as the running release has it, and connections to it."""
    name = "test_" + str(time.monotonic_ns())
    with psycopg.connect(host=server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    opened = []

    def connect():
        opened.append(psycopg.connect(host=server, user="postgres", dbname=name, autocommit=True))
        return opened[-1]

    connect.name = name
    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def site(tmp_path, project, database, monkeypatch, capfd):
    site = Site(tmp_path, project, database.name, monkeypatch)
    assert site.has(f"base_{database.name}").migrate(check=True) == 0
    assert site.migrate() == 0
    capfd.readouterr()
    return site


def columns(connection, table="news_story"):
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    return {row[0] for row in connection.execute(query, [table])}


class Visitors:
    """Requests of the running site, one after another; how long the slowest took."""

    def __init__(self, connection):
        self.connection, self.slowest, self.is_over = connection, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.visit)

    def visit(self):
        while not self.is_over.is_set():
            started = time.monotonic()
            self.connection.execute("INSERT INTO news_tag (name) VALUES ('x')")
            self.connection.execute("SELECT count(*) FROM news_story")
            self.slowest = max(self.slowest, time.monotonic() - started)
            time.sleep(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


def test_a_second_run_has_nothing_to_do(site, capfd):
    assert site.migrate() == 0
    assert capfd.readouterr().out == ""


def test_a_plan_is_told_by_a_check_and_nothing_is_done(site, database, capfd):
    site.has("told", "AddField('story', 'note', TextField(null=True))")
    assert site.migrate(check=True, after=["check"]) == 0
    assert capfd.readouterr().out.splitlines() == ["changed: news: news.0002_case", "changed: news: check"]
    assert "note" not in columns(database())


def test_a_refusal_comes_before_anything_is_applied(site, database, capfd):
    site.has("refused", "AddField('story', 'note', TextField(null=True)), RemoveField('story', 'slug')")
    assert site.migrate() == 1
    said = capfd.readouterr()
    assert said.err.startswith("news: news.0002_case is refused (Remove field slug from story): the running release")
    assert len(said.err.splitlines()) == 1
    assert "note" not in columns(database())
    assert site.migrate("news.0002_case") == 0
    assert columns(database()) >= {"note"}
    assert "slug" not in columns(database())


def test_an_empty_database_is_refused_nothing(tmp_path, project, database, monkeypatch, capfd):
    site = Site(tmp_path, project, database.name, monkeypatch).has("first", f"{UNJUDGED}, RemoveField('story', 'slug')")
    assert site.migrate() == 0
    assert "slug" not in columns(database())


UNJUDGED = 'RunSQL("CREATE TYPE mood AS ENUM (); ALTER TYPE mood RENAME TO humour")'


def test_the_first_migrations_of_a_database_are_finished_as_they_were_begun(
    tmp_path, project, database, monkeypatch, capfd
):
    site = Site(tmp_path, project, database.name, monkeypatch).has("first_fails", f"{UNJUDGED}, RunSQL('oops')")
    assert site.migrate() == 1
    site.has("first_again", UNJUDGED)
    assert site.migrate() == 0
    assert database().execute("SELECT obj_description(to_regclass('django_migrations'))").fetchone() == (None,)
    site.has("then", UNJUDGED, third="RemoveField('story', 'slug')")
    assert site.migrate() == 1
    assert "news.0003_third is refused" in capfd.readouterr().err


def test_a_migration_gets_through_when_the_lock_is_free_and_nobody_waited_longer_than_for_it(site, database):
    site.has("waits", "AddField('story', 'note', TextField(null=True))")
    holder = database()
    holder.execute("BEGIN; SELECT * FROM news_story")
    release = threading.Timer(2.5, holder.execute, ["COMMIT"])
    release.start()
    with Visitors(database()) as visitors:
        assert site.migrate(attempts=20) == 0
    release.join()
    assert "note" in columns(database())
    assert visitors.slowest < 0.4 + 0.4


def test_a_migration_gives_up_in_one_sentence_and_the_next_run_goes_on(site, database, capfd):
    site.has(
        "gives_up",
        "AddField('author', 'note', TextField(null=True)), RunSQL(\"INSERT INTO news_tag (name) VALUES ('once')\"),"
        "AddField('story', 'note', ForeignKey('news.Tag', SET_NULL, null=True))",
    )
    holder = database()
    holder.execute("BEGIN; SELECT * FROM news_story")
    with Visitors(database()) as visitors:
        assert site.migrate() == 1
    said = capfd.readouterr()
    assert said.err.startswith("news: news.0002_case is not applied: in 3 tries no lock was had within 0.4 s")
    assert len(said.err.splitlines()) == 1
    assert said.out.count("tries left") == 2
    assert visitors.slowest < 0.4 + 0.4
    holder.execute("COMMIT")
    assert site.migrate() == 0
    assert columns(holder) >= {"note_id"}
    assert columns(holder, "news_author") >= {"note"}
    assert holder.execute("SELECT count(*) FROM news_tag WHERE name = 'once'").fetchone() == (1,)
    assert holder.execute("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'news_story_note%'").fetchone() == (1,)
    assert holder.execute("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'news_story_note%'").fetchone() == (1,)
    assert holder.execute("SELECT obj_description(to_regclass('django_migrations'))").fetchone() == (None,)


def test_code_that_had_no_lock_is_undone_and_run_again(site, database):
    head = """
        def fill(apps, schema_editor):
            apps.get_model("news", "Tag").objects.create(name="once")
            apps.get_model("news", "Story").objects.update(slug="filled")
    """
    site.has("code_again", "RunPython(fill)", head)
    holder = database()
    holder.execute("BEGIN; LOCK TABLE news_story IN SHARE MODE")
    release = threading.Timer(2, holder.execute, ["COMMIT"])
    release.start()
    assert site.migrate(attempts=20) == 0
    release.join()
    assert holder.execute("SELECT count(*) FROM news_tag WHERE name = 'once'").fetchone() == (1,)


def test_an_index_is_waited_for_in_one_go_and_built_again_where_it_was_left_invalid(site, database, capfd):
    site.has("invalid_index", "AddIndex('story', Index(fields=['published'], name='by_date'))")
    holder = database()
    holder.execute("BEGIN; INSERT INTO news_tag (name) VALUES ('x'); SELECT * FROM news_story")
    holder.execute("UPDATE news_story SET views = 1")
    assert site.migrate() == 1
    holder.execute("COMMIT")
    assert site.migrate() == 0, capfd.readouterr().err
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('by_date')"
    assert holder.execute(query).fetchall() == [(True,)]


def test_an_operation_that_holds_a_lock_for_long_is_cut_short(site, database, capfd):
    """What nobody could foresee: here a trigger that sleeps on every change of a table's form."""
    database().execute(
        "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); END';"
        "CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION slow()"
    )
    site.has("slow", "AddField('story', 'note', TextField(null=True))")
    assert site.migrate() == 1
    assert "it kept a table locked for longer than 0.4 s" in capfd.readouterr().err
    assert "note" not in columns(database())


def test_a_run_that_was_killed_is_finished_by_the_next(site, database):
    head = f"""
        import os, pathlib
        died = pathlib.Path("{site.folder}/died")
        def fill(apps, schema_editor):
            apps.get_model("news", "Tag").objects.create(name="once")
        def die(apps, schema_editor):
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), 9)
    """
    site.has(
        "killed",
        "AddField('story', 'note', TextField(null=True)), RunPython(fill),"
        "AddIndex('story', Index(fields=['note'], name='by_note')), RunPython(die),"
        "RenameField('story', 'slug', 'path')",
        head,
    )
    assert site.migrate("news.0002_case") == 1
    assert columns(database()) >= {"note", "slug"}
    assert site.migrate("news.0002_case") == 0
    assert columns(database()) >= {"note", "path"}
    assert database().execute("SELECT count(*) FROM news_tag").fetchone() == (1,)


def test_two_sites_are_asked_at_once_and_none_is_changed_where_one_is_refused(site, database, capfd):
    site.has("other", "RemoveField('story', 'slug')")
    parts = [{"site": name, "release": "one", "after": [], "allow": []} for name in ("news", "shop")]
    (site.folder / "shop/releases/one").mkdir(parents=True)
    (site.folder / "shop/releases/one/.ready").touch()
    run = site.folder / "site-run"
    # The second site's database is empty, and its migrations would be applied.
    run.write_text(
        run.read_text()
        .replace("shift 3", "site=$1; shift 3")
        .replace(
            "exec",
            f'[ "$site" = news ] || export DATABASE={site.database}_b MIGRATIONS=cases.base_{site.database}\nexec',
        )
    )
    database().execute(f"CREATE DATABASE {site.database}_b")
    assert site.program.migrate(parts, site.options) == 1
    assert "changed: shop: news.0001_base" in capfd.readouterr().out
    assert not (site.folder / "shop/releases/one/.migrated").exists()
    assert site.program.migrate([parts[1]], site.options) == 0
    assert (site.folder / "shop/releases/one/.migrated").exists()


def test_a_database_that_another_run_migrates_is_waited_for(site, database, capfd):
    site.has("busy", "AddField('story', 'note', TextField(null=True))")
    other = database()
    other.execute("SELECT pg_advisory_lock(hashtext('trestle migrate'))")
    assert site.migrate() == 1
    assert "another run is migrating it" in capfd.readouterr().err
    other.execute("SELECT pg_advisory_unlock_all()")
    assert site.migrate() == 0


def test_a_column_that_the_running_release_no_longer_knows_is_dropped_without_a_word(site, database, capfd):
    gone = "SeparateDatabaseAndState(state_operations=[RemoveField('story', 'slug'), DeleteModel('Tag')])"
    site.has("first_step", f"RemoveField('story', 'tags'), {gone}")
    assert site.migrate("news.0002_case") == 0
    dropped = "RunSQL('ALTER TABLE news_story DROP COLUMN slug; DROP TABLE news_tag')"
    site.has("second_step", f"RemoveField('story', 'tags'), {gone}", third=dropped)
    assert site.migrate() == 0, capfd.readouterr().err
    assert "slug" not in columns(database())


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (["news.0001_base"], 1),
        (["news.0001_base", "news.0002_case"], 0),
        (None, 0),  # nobody can say it: the database is believed
    ],
)
def test_a_column_that_the_running_release_still_knows_is_not_dropped_where_the_database_is_ahead_of_it(
    site, database, capfd, monkeypatch, known, code
):
    """As after a rollback, or where the canary went back."""
    gone = "SeparateDatabaseAndState(state_operations=[RemoveField('story', 'slug')])"
    site.has(f"ahead_{database.name}", gone)
    assert site.migrate("news.0002_case") == 0
    (site.folder / "news/current").symlink_to("releases/zero")
    asked = []
    names = known and {name: {} for name in known}
    monkeypatch.setattr(site.program, "migrations_of", lambda *release: asked.append(release) or names)
    site.has(f"dropped_{database.name}", gone, third="RunSQL('ALTER TABLE news_story DROP COLUMN slug')")
    assert site.migrate() == code
    assert asked == [("news", "zero")]
    said = capfd.readouterr().err
    assert ("the running release still uses it" in said, "slug" in columns(database())) == (bool(code), bool(code))
    site.migrate()
    assert len(asked) == 1 + code, "it is asked where there is something to judge"


def test_a_squashed_migration_is_known_where_all_that_it_replaces_is():
    """``state_of`` with a loader's answers."""
    script = """
from types import SimpleNamespace as Made
import trestle_unsafe
squashed, plain = Made(replaces=[("a", "1"), ("a", "2")]), Made(replaces=[])
graph = Made(nodes={("a", "12"): squashed, ("a", "3"): plain, ("b", "1"): plain})
applied = {**graph.nodes, ("a", "1"): None, ("a", "2"): None}
loader = Made(graph=graph, applied_migrations=applied, project_state=lambda nodes: sorted("".join(n) for n in nodes))
print(trestle_unsafe.state_of(loader, {"a.1", "a.2", "b.1"}), trestle_unsafe.state_of(loader, {"a.1", "a.3"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(LIBRARY)}, capture_output=True, text=True
    )
    assert done.stdout == "['a12', 'b1'] ['a3']\n", done.stderr


def test_a_package_s_migration_is_judged_too(site, database, capfd):
    """Nobody can change it, but somebody can name it."""
    (site.project / "settings.py").write_text(
        (site.project / "settings.py").read_text() + "INSTALLED_APPS += os.environ.get('MORE', '').split()\n"
    )
    package = site.project / "bought/migrations"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "0001_initial.py").write_text(
        f"{HEAD}\nclass Migration(migrations.Migration):\n    dependencies = [('news', '0001_base')]\n"
        "    operations = [CreateModel('Bill', [('id', AutoField(primary_key=True))]), "
        "RunSQL('ALTER TABLE news_tag ALTER name TYPE text')]\n"
    )
    run = site.folder / "site-run"
    run.write_text(run.read_text().replace("exec ", "export MORE=bought\nexec "))
    assert site.migrate() == 1
    assert "bought.0001_initial is refused (Raw SQL operation): the table is written anew" in capfd.readouterr().err
    assert site.migrate("bought.0001_initial") == 0


def test_an_index_waits_for_old_transactions_longer_than_for_a_lock_since_nobody_queues_behind_it(
    site, database, capfd
):
    site.has("patient_index", "AddIndex('story', Index(fields=['published'], name='by_date'))")
    holder = database()
    holder.execute("BEGIN; UPDATE news_story SET views = 1")
    release = threading.Timer(4, holder.execute, ["COMMIT"])
    release.start()
    with Visitors(database()) as visitors:
        assert site.migrate(attempts=40) == 0
    release.join()
    assert "tries left" not in capfd.readouterr().out
    assert visitors.slowest < 0.4
