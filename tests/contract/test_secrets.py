"""`make secrets` writes every secret that group_vars/all/secrets.yml names, each encrypted by itself."""

from __future__ import annotations

import pytest
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from environments import ROOT

from tools import secrets


@pytest.fixture
def repository(tmp_path, monkeypatch):
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all/secrets.yml").write_text((ROOT / "group_vars/all/secrets.yml").read_text())
    (tmp_path / "inventories/production/group_vars/all").mkdir(parents=True)
    monkeypatch.setattr(secrets, "ROOT", tmp_path)
    monkeypatch.setattr(secrets, "PASSWORD", tmp_path / ".vault-password")
    return tmp_path


def test_every_secret_is_written_strong_and_encrypted(repository):
    (repository / ".vault-password").write_text("a password\n")
    written = secrets.write_vault("production")
    assert written.stat().st_mode & 0o077 == 0

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!vault", lambda loader, node: loader.construct_scalar(node))
    encrypted = yaml.load(written.read_text(), Loader)
    assert set(encrypted) == set(secrets.names())
    vault = VaultLib([("default", VaultSecret(b"a password"))])
    values = [vault.decrypt(value).decode() for value in encrypted.values()]
    assert len(set(values)) == len(values) and all(len(value) >= 40 for value in values)
    assert not [value for value in values if value in written.read_text()]


def test_what_is_there_is_never_overwritten(repository):
    (repository / ".vault-password").write_text("a password\n")
    written = secrets.write_vault("production")
    before = written.read_text()
    with pytest.raises(SystemExit, match="exists already"):
        secrets.write_vault("production")
    assert written.read_text() == before


def test_without_a_password_nothing_is_written(repository):
    with pytest.raises(SystemExit, match="vault-password"):
        secrets.write_vault("production")
    assert not (repository / "inventories/production/group_vars/all/vault.yml").exists()
