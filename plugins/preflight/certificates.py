"""Certificates: what the load balancers need is there, fits together, is of today and names the sites' domains."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from plugins.preflight.inventory import Inventory, readable


def check(inventory: Inventory) -> Iterator[str]:
    common = inventory.common
    if common.value("certificates_source") == "ca":
        key, certificate = common.value("certificates_ca_key"), common.value("certificates_ca_certificate")
        if isinstance(key, str) and isinstance(certificate, str):
            for text in wrong(certificate.encode(), key.encode(), []):
                yield common.problem("vault_certificates_ca_certificate", text)
    elif common.value("certificates_source") == "files":
        folder = Path(common.value("certificates_files_folder") or Path(common.raw["inventory_dir"], "certificates"))
        wanted = {name: site["domains"] for name, site in common.value("sites").items()} | {
            "monitor": [common.value("monitor_domain")]
        }
        absent = [path for name in wanted for path in files(folder, name) if not path.is_file()]
        if absent:
            others = f" (nor {len(absent) - 1} more)" if len(absent) > 1 else ""
            text = f"is files, and there is no {readable(absent[0])}{others}: put it there, or write ca."
            yield common.problem("certificates_source", text)
        for name, domains in wanted.items():
            certificate, key = files(folder, name)
            if certificate not in absent and key not in absent:
                for text in wrong(certificate.read_bytes(), key.read_bytes(), domains):
                    yield f"{readable(certificate)}: the certificate of {name} {text}"


def files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.crt", folder / f"{name}.key"


def wrong(certificate: bytes, key: bytes, domains: list[str]) -> Iterator[str]:
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError:
        yield "is not PEM: write it as -----BEGIN CERTIFICATE-----, its chain after it."
        return
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        yield "has a key that is not PEM, or has a passphrase: write it as -----BEGIN PRIVATE KEY----- without one."
        return
    leaf, now = chain[0], datetime.datetime.now(datetime.UTC)
    if public(leaf) != public(private):
        yield "does not match its key: put the two that belong together there."
    if leaf.not_valid_after_utc < now:
        yield f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}: renew it."
    elif leaf.not_valid_before_utc > now:
        yield f"is not valid before {leaf.not_valid_before_utc:%Y-%m-%d}: wait, or set the clock."
    if uncovered := [domain for domain in domains if not covers(leaf, domain)]:
        yield f"does not name {', '.join(uncovered)}: get one that does."


def public(holder) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def covers(certificate: x509.Certificate, domain: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    # A wildcard stands for one label.
    return bool({domain, f"*.{domain.partition('.')[2]}"} & {*names.get_values_for_type(x509.DNSName)})
