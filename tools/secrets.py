"""The secrets of an environment: their names are read from group_vars/all/secrets.yml, their values made here."""

from __future__ import annotations

import datetime
import re
import secrets
import sys
import textwrap
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret, is_encrypted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = ROOT / ".vault-password"
CA_DAYS = 3650
HEADER = "# The secrets of this environment, encrypted one by one. See group_vars/all/secrets.yml.\n"


def names() -> list[str]:
    """The names of the vault's variables."""
    return sorted(set(re.findall(r"\bvault_\w+", (ROOT / "group_vars/all/secrets.yml").read_text())))


def certificate_authority(env_name: str) -> tuple[str, str]:
    """A new authority's private key and certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{env_name} certificate authority")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


def make(env_name: str) -> dict[str, str]:
    """A strong value for every secret."""
    values = {name: secrets.token_hex(20) for name in names()}
    key, certificate = certificate_authority(env_name)
    return values | {"vault_certificates_ca_key": key, "vault_certificates_ca_certificate": certificate}


class Refused(Exception):
    """Why nothing was written, in one sentence."""


class VaultFile(yaml.SafeLoader):
    """Reads a vault file without decrypting it."""


VaultFile.add_constructor("!vault", lambda loader, node: loader.construct_scalar(node))


def vault() -> VaultLib:
    password = PASSWORD.read_text().strip() if PASSWORD.exists() else ""
    if not password:
        raise Refused(f"Write the vault's password into the file {PASSWORD.name} first (git ignores it).")
    PASSWORD.chmod(0o600)
    return VaultLib([("default", VaultSecret(password.encode()))])


def present(target: Path, lib: VaultLib) -> set[str]:
    """The names of the vault's values; every one can be decrypted."""
    text = target.read_text() if target.exists() else ""
    if is_encrypted(text):
        raise Refused(
            f"{target.relative_to(ROOT)} is encrypted as a whole: write it value by value, or use ansible-vault edit."
        )
    values = yaml.load(text, VaultFile) or {}
    for name, value in values.items():
        if is_encrypted(value):
            try:
                lib.decrypt(value)
            except AnsibleError as error:
                raise Refused(
                    f"{name} in {target.relative_to(ROOT)} cannot be decrypted with the password in {PASSWORD.name}: "
                    "write the environment's own there."
                ) from error
    return set(values)


def write_vault(env_name: str) -> list[str]:
    """Add every secret that is not in inventories/<env>/group_vars/all/vault.yml yet; returns their names."""
    target = vault_file(env_name)
    if not target.parent.is_dir():
        raise Refused(f"There is no inventories/{env_name}: name an environment, as in make secrets ENV=production.")
    lib = vault()
    there = present(target, lib)
    authority = {"vault_certificates_ca_key", "vault_certificates_ca_certificate"}
    if half := authority & there if authority - there else None:
        raise Refused(
            f"{target.relative_to(ROOT)} has {half.pop()} without its other half: bring that, or delete both."
        )
    added = {name: value for name, value in make(env_name).items() if name not in there}
    text = target.read_text() if target.exists() else HEADER
    for name, value in added.items():
        # Value by value, so that the names can be read, and a lab can be run, without the password.
        text += f"{name}: !vault |\n" + textwrap.indent(lib.encrypt(value).decode(), "  ")
    target.touch(mode=0o600)
    target.write_text(text)
    return list(added)


def vault_file(env_name: str) -> Path:
    return ROOT / "inventories" / env_name / "group_vars/all/vault.yml"


def main(env_name: str) -> None:
    file = vault_file(env_name).relative_to(ROOT)
    try:
        added = write_vault(env_name)
    except Refused as error:
        sys.exit(f"error: {error} Nothing was changed.")
    if not added:
        print(f"{file} has every secret already: nothing was changed.")
        return
    print(f"Wrote {len(added)} secrets into {file}, encrypted with the password in {PASSWORD.name}:")
    print(textwrap.fill(", ".join(added), 100, initial_indent="  ", subsequent_indent="  "))
    print(
        f"Commit {file}. Give the password to your colleagues by another way, and keep a copy: it cannot be replaced."
    )


if __name__ == "__main__":
    main(sys.argv[1])
