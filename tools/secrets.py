"""The secrets of an environment: their names are read from group_vars/all/secrets.yml, their values made here."""

from __future__ import annotations

import datetime
import re
import secrets
import sys
import textwrap
from pathlib import Path

from ansible.parsing.vault import VaultLib, VaultSecret
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = ROOT / ".vault-password"
CA_DAYS = 3650


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


def write_vault(env_name: str) -> Path:
    """Write inventories/<env>/group_vars/all/vault.yml with every value encrypted by ansible-vault."""
    target = ROOT / "inventories" / env_name / "group_vars/all/vault.yml"
    if not target.parent.is_dir():
        raise SystemExit(f"There is no inventories/{env_name}: name an environment, as in make secrets ENV=production.")
    if target.exists():
        raise SystemExit(f"{target.relative_to(ROOT)} exists already: nothing was changed.")
    if not PASSWORD.exists() or not PASSWORD.read_text().strip():
        raise SystemExit("Write the vault's password into the file .vault-password first (git ignores it).")
    vault = VaultLib([("default", VaultSecret(PASSWORD.read_text().strip().encode()))])
    text = "# The secrets of this environment, encrypted one by one. See group_vars/all/secrets.yml.\n"
    for name, value in make(env_name).items():
        # Value by value, so that the names can be read, and a lab can be run, without the password.
        text += f"{name}: !vault |\n" + textwrap.indent(vault.encrypt(value).decode(), "  ")
    target.touch(mode=0o600)
    target.write_text(text)
    return target


if __name__ == "__main__":
    print(f"wrote {write_vault(sys.argv[1]).relative_to(ROOT)}; commit it, and keep .vault-password safe")
