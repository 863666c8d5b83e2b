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


FILE = "inventories/production/group_vars/all/vault.yml"


@pytest.fixture
def password(repository):
    (repository / ".vault-password").write_text("a password\n")


def values(repository) -> dict[str, str]:
    vault = VaultLib([("default", VaultSecret(b"a password"))])
    encrypted = yaml.load((repository / FILE).read_text(), secrets.VaultFile)
    return {name: vault.decrypt(value).decode() for name, value in encrypted.items()}


def test_every_secret_is_written_strong_and_encrypted(repository, password):
    assert sorted(secrets.write_vault("production")) == secrets.names()
    written = values(repository)
    assert sorted(written) == secrets.names()
    assert len(set(written.values())) == len(written) and all(len(value) >= 40 for value in written.values())
    assert not [value for value in written.values() if value in (repository / FILE).read_text()]
    for file in (FILE, ".vault-password"):
        assert (repository / file).stat().st_mode & 0o077 == 0


def test_what_is_there_is_never_overwritten(repository, password):
    secrets.write_vault("production")
    before = (repository / FILE).read_text()
    assert secrets.write_vault("production") == []
    assert (repository / FILE).read_text() == before


def test_a_secret_that_a_newer_version_needs_is_added(repository, password):
    secrets.write_vault("production")
    before = values(repository)
    names = repository / "group_vars/all/secrets.yml"
    names.write_text(names.read_text() + 'new: "{{ vault_new }}"\n')
    assert secrets.write_vault("production") == ["vault_new"]
    after = values(repository)
    assert len(after.pop("vault_new")) >= 40
    assert after == before


def test_a_run_says_what_it_wrote_and_shows_no_value(repository, password, capsys):
    secrets.main("production")
    said = capsys.readouterr().out
    assert said.startswith(f"Wrote {len(secrets.names())} secrets into {FILE}, encrypted with the password in")
    assert not [name for name in secrets.names() if name not in said]
    assert not [value for value in values(repository).values() if value in said]
    secrets.main("production")
    assert capsys.readouterr().out == f"{FILE} has every secret already: nothing was changed.\n"


def no_password(repository):
    (repository / ".vault-password").unlink()


def another_password(repository):
    secrets.write_vault("production")
    (repository / ".vault-password").write_text("another password\n")


def encrypted_as_a_whole(repository):
    (repository / FILE).write_text(VaultLib([("default", VaultSecret(b"a password"))]).encrypt("x: 1").decode())


def half_an_authority(repository):
    (repository / FILE).write_text("vault_certificates_ca_key: x\n")


REFUSED = [
    (no_password, "production", "Write the vault's password into the file .vault-password first"),
    (
        another_password,
        "production",
        "cannot be decrypted with the password in .vault-password: write the environment's",
    ),
    (encrypted_as_a_whole, "production", f"{FILE} is encrypted as a whole"),
    (half_an_authority, "production", f"{FILE} has vault_certificates_ca_key without its other half"),
    (lambda repository: None, "prodution", "There is no inventories/prodution: name an environment"),
]


@pytest.mark.parametrize(("breaks", "env_name", "sentence"), REFUSED)
def test_a_refusal_is_one_sentence_and_changes_nothing(repository, password, breaks, env_name, sentence):
    breaks(repository)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as exit_:
        secrets.main(env_name)
    assert str(exit_.value).startswith("error: ") and sentence in str(exit_.value)
    assert str(exit_.value).endswith("Nothing was changed.")
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
