"""What migrate-release runs with a release's own Python: reads, judges and applies the migrations of one site.

Given a job as JSON it says what there is to do, prints "ready" and waits for "go". Before it judges it may print
"running?" and read the names of the running release's migrations, as JSON. Without a job it lists its own.
"""

import json
import os
import shlex
import sys
import time
import warnings
from contextlib import nullcontext

LOCK_NOT_HAD = ("55P03", "40P01")  # a timeout, a deadlock
TOO_LONG = "57014"
FIRST = "first-migrations"


class MigrationError(Exception):
    """Why a database is not migrated, in one sentence."""


def listed():
    """Each migration of this release, without a database: what it replaces, and what in it cannot be undone."""
    if "DJANGO_SETTINGS_MODULE" not in os.environ:
        return {}
    import django
    from django.db.migrations.loader import MigrationLoader

    django.setup()
    loader = MigrationLoader(None, ignore_no_migrations=True)
    return {
        f"{app}.{name}": {
            "runs": (app, name) in loader.graph.nodes,
            "replaces": [".".join(other) for other in migration.replaces],
            "irreversible": [operation.describe() for operation in lasting(migration.operations)],
        }
        for (app, name), migration in loader.disk_migrations.items()
    }


def lasting(operations):
    """The operations that cannot be undone, or whose undoing brings no data back."""
    from django.db.migrations import operations as known

    for operation in operations:
        if isinstance(operation, known.SeparateDatabaseAndState):
            yield from lasting(operation.database_operations)
        elif not operation.reversible or isinstance(operation, (known.RemoveField, known.DeleteModel)):
            yield operation


class Work:
    """One site's database, and what a job says of it."""

    def __init__(self, job):
        import django

        django.setup()
        from django.db import connection

        self.job, self.site, self.connection = job, job["site"], connection
        self.is_postgresql = connection.vendor == "postgresql"
        self.migration, self.statement = "", ""
        if self.is_postgresql:
            connection.close()
            options = connection.settings_dict["OPTIONS"]
            options.pop("pool", None)
            # With the connection itself, so that it holds for whatever a migration runs, and after a reconnect.
            limits = f"-c lock_timeout={job['lock_timeout'] * 1000:.0f} -c statement_timeout=0"
            options["options"] = f"{options.get('options', '')} {limits}".strip()

    def run(self):
        plan = self.plan_when_free()
        # Nobody uses a database that is empty, or whose first migrations were cut short.
        self.is_new = not self.executor.loader.applied_migrations or self.noted()[0] == FIRST
        if plan and self.is_postgresql and not self.is_new:
            self.judge(plan)
        for migration, _ in plan:
            self.say(f"changed: {self.site}: {migration}")
        after = self.job["after"] if plan or self.job["first"] else []
        for command in after:
            self.say(f"changed: {self.site}: {command}")
        if self.job["check"] or not (plan or after):
            return
        self.say("ready")
        if sys.stdin.readline() == "go\n":
            if plan:
                self.migrate()
            self.follow(after)

    @staticmethod
    def say(line):
        print(line, flush=True)

    def plan_when_free(self):
        """The migrations that are missing, as soon as the database answers and nobody else migrates it."""
        from django.db import OperationalError
        from django.db.migrations.executor import MigrationExecutor

        deadline = time.monotonic() + self.job["wait"]
        while True:
            try:
                self.connection.ensure_connection()
                self.executor = MigrationExecutor(self.connection)
                plan = self.executor.migration_plan(self.executor.loader.graph.leaf_nodes())
                if self.job["check"] or not (plan or self.job["first"]):
                    return plan
                if self.is_mine():  # read again, now that nobody else changes it
                    self.executor = MigrationExecutor(self.connection)
                    return self.executor.migration_plan(self.executor.loader.graph.leaf_nodes())
                problem = "another run is migrating it"
            except OperationalError as error:
                self.connection.close()
                problem = f"it does not answer: {error}"
            if time.monotonic() > deadline:
                raise MigrationError(f"the database {self.connection.settings_dict['NAME']}: {problem}")
            time.sleep(2)

    def is_mine(self):
        """Whether this session may migrate: the database holds the lock, so that it holds for runs from anywhere."""
        if not self.is_postgresql:
            return True
        with self.connection.cursor() as cursor:
            cursor.execute("/*NO LOAD BALANCE*/ SELECT pg_try_advisory_lock(hashtext('trestle migrate'))")
            return cursor.fetchone()[0]

    def judge(self, plan):
        from trestle_unsafe import faults

        known = None
        if self.job["asks"]:
            self.say("running?")
            known = json.loads(sys.stdin.readline())
        if found := faults(self.executor, plan, self.job["allow"], known):
            raise MigrationError(
                "\n".join(
                    f"{migration} is refused ({operation}): {why}: {remedy}, or name {migration} in "
                    f"sites.{self.site}.allow_unsafe_migrations."
                    for migration, operation, why, remedy in found
                )
            )

    def migrate(self):
        from django.core.management import call_command
        from django.core.management.commands import migrate
        from django.db import OperationalError

        patience = nullcontext()
        if self.is_new:
            self.executor.recorder.ensure_schema()
            self.note(FIRST)
        elif self.is_postgresql:
            migrate.MigrationExecutor = piecewise(self)
            patience = self.connection.execute_wrapper(self.statement_wrapper)
        try:
            with patience:
                call_command("migrate", interactive=False, verbosity=1)
                self.note("")
        except OperationalError as error:
            if (code := sqlstate(error)) not in (*LOCK_NOT_HAD, TOO_LONG):
                raise
            raise MigrationError(self.gave_up(code)) from error

    def note(self, text):
        """How far the migrations have come: a comment on Django's own table, for a run after one cut short."""
        if self.is_postgresql:
            with self.connection.cursor() as cursor:
                cursor.execute(f"COMMENT ON TABLE django_migrations IS '{text}'")

    def noted(self):
        """The migration that was begun, and how many of its operations were done."""
        if not self.is_postgresql:
            return "", 0
        with self.connection.cursor() as cursor:
            cursor.execute("/*NO LOAD BALANCE*/ SELECT obj_description(to_regclass('django_migrations'))")
            begun, _, done = (cursor.fetchone()[0] or "").partition(" ")
        return begun, int(done) if done.isdigit() else 0

    def gave_up(self, code):
        seconds, attempts = self.job["lock_timeout"], self.job["attempts"]
        why = f"in {attempts} tries no lock was had within {seconds:g} s, since other sessions hold the table"
        if code == TOO_LONG:
            why = f"it kept a table locked for longer than {seconds:g} s"
        return (
            f"{self.migration} is not applied: {why} ({' '.join(self.statement.split())[:120]}): the running release "
            "goes on as before; end those sessions or wait, and run the same command again, which goes on from here."
        )

    def follow(self, commands):
        from django.core.management import call_command

        if commands and self.is_postgresql:
            with self.connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = 0")
        for command in commands:
            call_command(*shlex.split(command))

    def patiently(self, attempt):
        """Tries again what was undone because a lock was not had; meanwhile nobody queues behind it."""
        from django.db import OperationalError

        for left in reversed(range(self.job["attempts"])):
            try:
                return attempt()
            except OperationalError as error:
                if not left or sqlstate(error) not in LOCK_NOT_HAD:
                    raise
            self.say(f"{self.site}: {self.migration}: no lock within {self.job['lock_timeout']:g} s, {left} tries left")
            time.sleep(self.job["pause"])

    def statement_wrapper(self, execute, sql, params, many, context):
        self.statement = str(sql)
        if self.connection.in_atomic_block:
            return execute(sql, params, many, context)  # tried again as a whole
        if "CONCURRENTLY" not in self.statement:
            return self.patiently(lambda: execute(sql, params, many, context))
        # It lets everybody pass, and would begin anew: so it waits once, for as long as all tries together.
        patience = self.job["attempts"] * (self.job["lock_timeout"] + self.job["pause"])
        with self.connection.connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {patience * 1000:.0f}")
            try:
                return execute(sql, params, many, context)
            finally:
                cursor.execute("RESET lock_timeout")


def sqlstate(error):
    """PostgreSQL's code, by psycopg or psycopg2."""
    return getattr(error.__cause__, "sqlstate", None) or getattr(error.__cause__, "pgcode", None)


def piecewise(work):
    """An executor under which each statement stands alone, so that no lock is held while the next one is waited for."""
    from django.contrib.postgres.operations import AddConstraintNotValid
    from django.db import transaction
    from django.db.migrations import RunPython, RunSQL
    from django.db.migrations.executor import MigrationExecutor
    from django_zero_downtime_migrations.backends.postgres.schema import (
        DatabaseSchemaEditorMixin,
        UnsafeOperationWarning,
    )

    warnings.simplefilter("ignore", UnsafeOperationWarning)  # they were judged, or allowed
    connection, plain = work.connection, work.connection.SchemaEditorClass

    class Editor(DatabaseSchemaEditorMixin, plain):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.IDEMPOTENT_SQL = work.resumed
            self.FLEXIBLE_STATEMENT_TIMEOUT = True
            if work.migration not in work.job["allow"]:
                # What locks everybody out must be over in a moment, and is undone where it is not.
                self.STATEMENT_TIMEOUT = f"{2 * work.job['lock_timeout'] * 1000:.0f}ms"

    class Step:
        """An operation: its code and SQL run once, in a transaction of their own where the migration is atomic."""

        atomic = False

        def __init__(self, operation, migration, number):
            self.operation, self.number = operation, number
            self.once = isinstance(operation, (RunPython, RunSQL, AddConstraintNotValid))
            opted_out = isinstance(operation, RunPython) and operation.atomic is False
            self.whole = operation.atomic or (self.once and migration.atomic and not opted_out)

        def __getattr__(self, name):
            return getattr(self.operation, name)

        def database_forwards(self, *arguments):
            if self.once and self.number <= work.done:
                return
            if self.whole:
                work.patiently(lambda: self.in_transaction(*arguments))
            else:
                self.forwards(*arguments)

        def in_transaction(self, *arguments):
            with transaction.atomic(connection.alias):
                self.forwards(*arguments)

        def forwards(self, app_label, editor, before, after):
            if isinstance(self.operation, AddConstraintNotValid):
                # It adds its own words to the editor's statement; the library's are two.
                editor.sql_create_check = plain.sql_create_check
            self.operation.database_forwards(app_label, editor, before, after)
            vars(editor).pop("sql_create_check", None)
            work.note(f"{work.migration} {self.number}")

    class Executor(MigrationExecutor):
        def apply_migration(self, state, migration, **options):
            work.migration = str(migration)
            begun, done = work.noted()
            work.resumed = begun == work.migration
            work.done = done if work.resumed else 0
            if not work.resumed:
                work.note(work.migration)
            migration.operations = [
                Step(each, migration, number) for number, each in enumerate(migration.operations, 1)
            ]
            return super().apply_migration(state, migration, **options)

        def record_migration(self, *migration):
            work.patiently(lambda: self.record_with_note(*migration))

        def record_with_note(self, *migration):
            with transaction.atomic(connection.alias):
                super().record_migration(*migration)  # itself, or from Django 6.1 its names
                work.note("")

    connection.SchemaEditorClass = Editor
    return Executor


def main():
    if len(sys.argv) == 1:
        print(json.dumps(listed()))
        return 0
    work = Work(json.loads(sys.argv[1]))
    try:
        work.run()
    except MigrationError as error:
        for sentence in str(error).splitlines():
            print(f"{work.site}: {sentence}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
