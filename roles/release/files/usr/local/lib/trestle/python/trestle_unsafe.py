"""Which migrations would lock a table for long, or break the release that is still running.

A plan is run through a schema editor that executes nothing: whatever an operation is, it ends in the editor's methods.
What locks a table, django-pg-zero-downtime-migrations knows; what the running release cannot live with is said by the
rules here. A table that the plan itself makes may have anything done to it.
"""

import re
from contextlib import contextmanager

from django.contrib.postgres.constraints import ExclusionConstraint
from django.db import DatabaseError
from django.db.migrations.operations import RunSQL, SeparateDatabaseAndState
from django.db.models import NOT_PROVIDED
from django_zero_downtime_migrations.backends.postgres.schema import (
    DatabaseSchemaEditorMixin,
    Unsafe,
    UnsafeOperationException,
)

# Why, and what to do instead.
USED = ("the running release still uses it", "take it out of the models first, and drop it one release later")
RENAMED = ("the running release knows the old name", "keep that with db_column or Meta.db_table")
REWRITES = ("the table is written anew, and locked meanwhile", "add a new column, fill it, and change over to it")
NOT_FILLED = ("the running release does not fill it", "give it a db_default, or null=True")
CHECKED = ("the table is locked while all of it is read", "add it NOT VALID, and validate it by a statement of its own")
NULLS = (
    "the running release may still write NULL",
    "have a release first that writes none, with a check constraint that says IS NOT NULL",
)
DEFAULT = ("the running release leaves it to the database's default", "drop that one release later")
BUILT = ("nobody can write to the table meanwhile", "do it CONCURRENTLY, in a migration with atomic = False")
LOCKED = ("nobody can use the table meanwhile", "do it at a quiet hour")
WITH_INDEX = (
    "the table is locked while its index is built",
    "build a unique index CONCURRENTLY, and add it USING INDEX",
)
UNKNOWN = "see for yourself that it locks nothing and breaks nothing"
HIDDEN = ("nobody can say what it does", UNKNOWN)

BY_LIBRARY = {
    Unsafe.ADD_COLUMN_NOT_NULL: NOT_FILLED,
    Unsafe.ADD_COLUMN_GENERATED_STORED: REWRITES,
    Unsafe.ALTER_COLUMN_TYPE: REWRITES,
    Unsafe.ALTER_TABLE_RENAME: RENAMED,
    Unsafe.ALTER_TABLE_RENAME_COLUMN: RENAMED,
    Unsafe.ALTER_TABLE_SET_TABLESPACE: LOCKED,
    Unsafe.ADD_CONSTRAINT_EXCLUDE: LOCKED,
}

NAME = r'(?:"?\w+"?\.)?"?(\w+)"?'
# What SQL of a project's own must not say of a table that there is; the name is the table's.
OF_A_TABLE = [
    (rf"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*?\bON (?:ONLY )?{NAME}", BUILT),
    (rf"TRUNCATE (?:TABLE )?(?:ONLY )?{NAME}", LOCKED),
    (rf"LOCK (?:TABLE )?(?:ONLY )?{NAME}", LOCKED),
    (rf"VACUUM \(?.*?\bFULL\b[^)]*\)? {NAME}", LOCKED),
    (rf"CLUSTER {NAME}", LOCKED),
    (rf"REFRESH MATERIALIZED VIEW (?!CONCURRENTLY){NAME}", BUILT),
    (r"REINDEX (?!.*CONCURRENTLY)(?:\(.*?\) )?(?:TABLE|INDEX|SCHEMA|DATABASE) (\S+)", BUILT),
    (r"ALTER TYPE (\S+) RENAME", RENAMED),
]
OF_ALTER_TABLE = [
    (r"^(?:RENAME (?!CONSTRAINT)|SET SCHEMA)", RENAMED),
    (r"\bADD (?:COLUMN )?(?!.*\b(?:DEFAULT|CONSTRAINT|CHECK|FOREIGN|UNIQUE|PRIMARY)\b).*\bNOT NULL\b", NOT_FILLED),
    (r"\bADD\b.*\b(?:GENERATED|SERIAL|BIGSERIAL)\b", REWRITES),
    (r"\bALTER (?:COLUMN )?\S+ (?:SET DATA )?TYPE\b", REWRITES),
    (r"\bADD (?:CONSTRAINT \S+ )?(?:CHECK|FOREIGN KEY)\b(?!.*\bNOT VALID\b)", CHECKED),
    (r"\bADD (?:CONSTRAINT \S+ )?(?:UNIQUE|PRIMARY KEY)\b(?!.*\bUSING INDEX\b)", WITH_INDEX),
    (r"\bADD (?:CONSTRAINT \S+ )?EXCLUDE\b", LOCKED),
    (r"\bSET (?:TABLESPACE|LOGGED|UNLOGGED)\b", LOCKED),
]
# What may name several tables.
SEVERAL = r"((?:DROP TABLE|TRUNCATE|LOCK)(?: TABLE)?(?: IF EXISTS)?(?: ONLY)? )(.*)"
DO = r"\bDO\s+(?:LANGUAGE\s+'?\w+'?\s+)?\$(\w*)\$(.*?)\$\1\$(?:\s*LANGUAGE\s+'?\w+'?)?"
CONTROL = r"(?i)\b(?:BEGIN|THEN|ELSE|LOOP)\b"
NOT_A_COLUMN = ("CONSTRAINT", "NOT", "DEFAULT", "IDENTITY", "EXPRESSION")


def faults(executor, plan, allowed, known=None):
    """What speaks against the plan: (migration, operation, why, remedy). ``known``: the migrations that the running
    release has, where the database may be ahead of it, as after a rollback."""
    connection = executor.connection
    plain = connection.SchemaEditorClass
    # AddConstraintNotValid makes a text of it, which the library's own is not.
    own = {"sql_create_check": plain.sql_create_check}
    judge = type("Judge", (Judge, DatabaseSchemaEditorMixin, plain), own)
    state = executor._create_project_state(with_applied_migrations=True)
    found = []
    with read_only(connection), judge(connection, collect_sql=True) as editor:
        editor.running = columns((state if known is None else state_of(executor.loader, set(known))).apps)
        for migration, _ in plan:
            for operation in migration.operations:
                before = state.clone()
                operation.state_forwards(migration.app_label, state)
                editor.faults = []
                try:
                    show(editor, operation, migration.app_label, before, state)
                except (DatabaseError, ValueError, TypeError) as error:
                    editor.fault((f"nobody can say what it does: {str(error).strip()!r}", UNKNOWN))
                if str(migration) not in allowed:
                    found += [(str(migration), operation.describe(), *fault) for fault in editor.faults]
        editor.deferred_sql.clear()
    return found


def state_of(loader, known):
    """The models as the applied migrations of these names made them; a squashed one counts as those it replaces."""

    def is_known(node):
        replaced = {".".join(other) for other in loader.graph.nodes[node].replaces}
        return ".".join(node) in known or (replaced and replaced <= known)

    applied = [node for node in loader.applied_migrations if node in loader.graph.nodes]
    return loader.project_state([node for node in applied if is_known(node)])


@contextmanager
def read_only(connection):
    """An operation of somebody's own may pass by the editor."""
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    yield
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")


def columns(apps):
    """Each table's columns, as the release knows them that is running."""
    models = apps.get_models(include_auto_created=True)
    return {model._meta.db_table: {field.column for field in model._meta.local_concrete_fields} for model in models}


def show(editor, operation, app_label, before, after):
    """Let the editor see an operation, and those within it one by one; no code of a project runs."""
    if isinstance(operation, SeparateDatabaseAndState):
        for part in operation.database_operations:
            after = before.clone()
            part.state_forwards(app_label, after)
            show(editor, part, app_label, before, after)
            before = after
    elif operation.reduces_to_sql:
        editor.is_own_sql = isinstance(operation, RunSQL) or not type(operation).__module__.startswith("django.")
        operation.database_forwards(app_label, editor, before, after)


class Judge:
    """The schema editor's methods, in front of the library's: a fault for what must not be done."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.RAISE_FOR_UNSAFE, self.EXPLICIT_CONSTRAINTS_DROP = True, False
        self.made, self.running, self.faults, self.is_own_sql = set(), {}, [], False

    def is_new(self, model):
        return model._meta.db_table in self.made

    def fault(self, why):
        if why not in self.faults:
            self.faults.append(why)

    @contextmanager
    def asked_of_the_library(self):
        try:
            yield
        except UnsafeOperationException as error:
            self.fault(BY_LIBRARY.get(str(error), LOCKED))

    def create_model(self, model):
        self.made.add(model._meta.db_table)
        for field in model._meta.local_many_to_many:
            if field.remote_field.through._meta.auto_created:
                self.create_model(field.remote_field.through)

    def delete_model(self, model):
        if not self.is_new(model):
            self.fault(USED)

    def alter_db_table(self, model, old_db_table, new_db_table):
        if old_db_table in self.made:
            self.made.add(new_db_table)
        elif old_db_table != new_db_table:
            self.fault(RENAMED)

    def alter_db_tablespace(self, model, *args):
        if not self.is_new(model):
            self.fault(LOCKED)

    def add_field(self, model, field):
        if field.many_to_many and field.remote_field.through._meta.auto_created:
            self.create_model(field.remote_field.through)
        if field.many_to_many or self.is_new(model):
            return
        with self.asked_of_the_library():
            super().add_field(model, field)
        if getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED and self.is_volatile(field):
            self.fault(REWRITES)

    def is_volatile(self, field):
        """Whether each row's default is another; of any other PostgreSQL remembers the one value."""
        called = re.findall(r"(\w+)\(", self.db_default_sql(field)[0].lower())
        return self.asked("SELECT FROM pg_proc WHERE provolatile = 'v' AND proname = ANY(%s)", [called])

    def remove_field(self, model, field):
        if field.many_to_many and field.remote_field.through._meta.auto_created:
            self.delete_model(field.remote_field.through)
        elif field.db_parameters(self.connection)["type"] and not self.is_new(model):
            self.fault(USED)

    def alter_field(self, model, old_field, new_field, strict=False):
        if self.is_new(model) or not self._field_should_be_altered(old_field, new_field):
            return
        if old_field.null and not new_field.null and not self.has_no_nulls(model._meta.db_table, old_field.column):
            self.fault(NULLS)
        had, has = (getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED for field in (old_field, new_field))
        if had and not has and not new_field.null:
            self.fault(DEFAULT)
        if getattr(old_field, "db_collation", None) != getattr(new_field, "db_collation", None):
            self.fault(REWRITES)
        with self.asked_of_the_library():
            super().alter_field(model, old_field, new_field, strict)

    def has_no_nulls(self, table, column):
        """Whether a check constraint has kept the running release from writing any."""
        return self.asked(
            "SELECT FROM pg_constraint WHERE conrelid = to_regclass(quote_ident(%s)) AND contype = 'c' "
            "AND starts_with(pg_get_constraintdef(oid), format('CHECK ((%%I IS NOT NULL))', %s::text))",
            [table, column],
        )

    def asked(self, query, params):
        with self.connection.cursor() as cursor:
            cursor.execute(query, params)
            return cursor.fetchone() is not None

    def add_constraint(self, model, constraint):
        if isinstance(constraint, ExclusionConstraint) and not self.is_new(model):
            self.fault(LOCKED)

    def harmless(self, *args, **kwargs):
        """The library does it without locking anybody out, and the running release does not notice."""

    alter_unique_together = alter_index_together = remove_constraint = harmless
    add_index = remove_index = rename_index = alter_db_table_comment = harmless

    def execute(self, sql, params=()):
        """An operation's own SQL; what the editor itself makes of the others is the library's, and safe."""
        if self.is_own_sql and isinstance(sql, str):
            for statement in statements(sql):
                self.read(statement)

    def read(self, statement):
        # Of DO only what could not be opened is left.
        if re.match(r"DO\b|(?:FOR \w+ IN |RETURN QUERY )?EXECUTE\b", statement, re.IGNORECASE):
            self.fault(HIDDEN)
        if made := re.match(rf"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?{NAME}", statement, re.IGNORECASE):
            self.made.add(made[1])
        dropped = re.match(rf"DROP TABLE (?:IF EXISTS )?{NAME}", statement, re.IGNORECASE)
        if dropped and dropped[1] in self.running:
            self.fault(USED)
        for pattern, why in OF_A_TABLE:
            found = re.match(pattern, statement, re.IGNORECASE)
            if found and found[1] not in self.made:
                self.fault(why)
        altered = re.match(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{NAME} (.*)", statement, re.IGNORECASE)
        if altered and altered[1] not in self.made:
            self.altered(*altered.groups())

    def altered(self, table, actions):
        for action in parts(actions):
            for pattern, why in OF_ALTER_TABLE:
                if re.search(pattern, action, re.IGNORECASE):
                    self.fault(why)
        for column in re.findall(r'\bDROP (?:COLUMN )?(?:IF EXISTS )?"?(\w+)', actions, re.IGNORECASE):
            if column.upper() not in NOT_A_COLUMN and column in self.running.get(table, ()):
                self.fault(USED)
        for column in re.findall(r'\bALTER (?:COLUMN )?"?(\w+)"? SET NOT NULL', actions, re.IGNORECASE):
            if not self.has_no_nulls(table, column):
                self.fault(NULLS)


def parts(actions):
    """What an ALTER TABLE does: what is between the commas that stand in no brackets."""
    depth, begun = 0, 0
    for at, sign in enumerate(actions):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            yield actions[begun:at].strip()
            begun = at + 1
    yield actions[begun:].strip()


def statements(sql):
    """Of a script, each in one line and of one table, without comments, texts and the bodies of functions; what DO does
    is done at once, and is among them."""
    sql = re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)
    sql = re.sub(DO, lambda found: f";{re.sub(CONTROL, ';', found[2])};", sql, flags=re.DOTALL | re.IGNORECASE)
    sql = re.sub(r"\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", "''", sql, flags=re.DOTALL)
    for part in sql.split(";"):
        statement = " ".join(part.split())
        if several := re.match(SEVERAL, statement, re.IGNORECASE):
            yield from (several[1] + name.strip() for name in several[2].split(","))
        else:
            yield statement
