"""Certificates for tests, made in no time: signed by themselves, for any names and any span of days."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    names: Sequence[str],
    key: Key,
    *,
    issuer: str = "Our own",
    organisation: str = "",
    first: float = -1,
    last: float = 30,
    authority: bool = False,
) -> bytes:
    """One in PEM form, valid from ``first`` to ``last`` days from now."""
    now = datetime.datetime.now(datetime.UTC)
    parts = [x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)] if issuer else []
    parts += [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
    name = x509.Name(parts)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=first))
        .not_valid_after(now + datetime.timedelta(days=last))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return made.public_bytes(Encoding.PEM)


def private(key: Key, password: bytes | None = None) -> bytes:
    """A key in PEM form."""
    how: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def put(directory: Path, stem: str, *names: str, issuer: str = "Our own", **more: Any) -> None:
    """A pair of files for these names, whatever was there before; ``more`` as above."""
    key = new_key()
    directory.mkdir(exist_ok=True)
    (directory / f"{stem}.crt").write_bytes(certificate(names, key, issuer=issuer, **more))
    (directory / f"{stem}.key").write_bytes(private(key))
