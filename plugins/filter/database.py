"""How the database tier's passwords are written down: as PostgreSQL and pgpool would write them, and always alike."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SCRAM_ITERATIONS = 4096  # PostgreSQL's own


def scram_verifier(password: str, key: str) -> str:
    """What PostgreSQL keeps of a password (SCRAM-SHA-256); the salt follows from ``key``, so the text is stable."""
    salt = hmac.new(key.encode(), b"scram:" + password.encode(), "sha256").digest()[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{text[0]}${text[1]}:{text[2]}"


def pgpool_encrypted(password: str, key: str) -> str:
    """The password as pg_enc writes it: AES-256-CBC, key and IV from OpenSSL's EVP_BytesToKey with SHA-1."""
    derived = block = b""
    while len(derived) < 48:
        block = hashlib.sha1(block + key.encode(), usedforsecurity=False).digest()
        derived += block
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(derived[:32]), modes.CBC(derived[32:48])).encryptor()
    padded = padder.update(password.encode()) + padder.finalize()
    return "AES" + base64.b64encode(encryptor.update(padded) + encryptor.finalize()).decode()


def program_connections(sites: list[dict]) -> int:
    """The connections that all sites' programs on one web host may want: one for each thread and database alias, where
    the deployment settings add `replica`, and one for each lock."""
    return sum(
        int(program["count"]) * int(program.get("threads", 1)) * (2 if site["deployment_settings"] else 1)
        + bool(program["once"])
        for site in sites
        for program in site["programs"]
    )


class FilterModule:
    def filters(self):
        return {
            "scram_verifier": scram_verifier,
            "pgpool_encrypted": pgpool_encrypted,
            "program_connections": program_connections,
        }
