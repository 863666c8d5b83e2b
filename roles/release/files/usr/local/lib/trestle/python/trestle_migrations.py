"""What migrate-release runs with a release's own Python: reads, judges and applies the migrations of one site."""

import json
import os
import sys


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


def main():
    print(json.dumps(listed()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
