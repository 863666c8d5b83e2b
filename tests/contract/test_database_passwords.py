"""The filters that write passwords down as PostgreSQL and pgpool would."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[2] / "plugins/filter/database.py"
spec = importlib.util.spec_from_file_location("database_filters", PLUGIN)
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)


def test_pgpool_passwords_are_those_of_pg_enc():
    # From pgpool 4.6.1: pg_enc -K keykeykey123 <password>
    assert filters.pgpool_encrypted("short", "keykeykey123") == "AEStRbD3b4WgUWaqYCPjGAozw=="
    long = "0123456789abcdef0123456789abcdef01234567"
    wanted = "AESW4xhsrelPyL1SDD0HxqwCnLJNsHRM+iEncdQ7/XFN8yAvEgqgdmmMEIv8S0K40VV"
    assert filters.pgpool_encrypted(long, "keykeykey123") == wanted


def test_a_verifier_is_stable_and_follows_from_password_and_key():
    one = filters.scram_verifier("secret", "key")
    assert one == filters.scram_verifier("secret", "key")
    assert one.startswith("SCRAM-SHA-256$4096:")
    assert one not in (filters.scram_verifier("secret", "other"), filters.scram_verifier("other", "key"))


def test_the_connections_of_all_programs_are_counted():
    gunicorn = {"count": "3", "threads": 4, "once": False}
    sites = [
        {"deployment_settings": False, "programs": [gunicorn, {"count": 2, "once": False}]},
        {"deployment_settings": True, "programs": [gunicorn, {"count": 1, "once": True}]},
    ]
    assert filters.program_connections(sites) == 12 + 2 + 2 * (12 + 1) + 1
