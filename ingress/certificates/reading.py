"""Certificates as far as we look into them: whose word one is, for which names, until when; pure.

A pair of files is checked here before Caddy is told of it, because Caddy refuses every change of its configuration, and
not only ours, while one file it was told of cannot be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from stackpad.errors import InvalidRequest

CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""Those that Go knows, and so Caddy."""

MAX_ISSUER = 80
"""Characters of an issuer's name that are shown: whoever made the certificate chose it."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Whose word a certificate is, and until when it holds (Unix time, seconds)."""

    issuer: str
    not_after: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key in files that Caddy can use. ``digest`` is another one when the certificate is.

    ``files`` is another one when anything of the files is, also who may read them.
    """

    name: str
    certificate: str
    key: str
    names: tuple[str, ...]
    issued: Issued
    not_before: float
    digest: str
    files: tuple[object, ...] = ()

    def unusable(self, now: float) -> str | None:
        """Why it is not to be used at this time; ``None`` if it is."""
        if now >= self.issued.not_after:
            return f"{self.certificate} has expired; put a new certificate and its key there"
        if now < self.not_before:
            return f"{self.certificate} is not valid yet; is this machine's clock right?"
        return None


def issued(der: bytes) -> Issued:
    """What a certificate in binary form says; raises :class:`InvalidRequest` if it is none."""
    try:
        return _issued(x509.load_der_x509_certificate(der))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"it cannot be read: {error}") from error


def pair(name: str, certificate: str, key: str, certificate_pem: bytes, key_pem: bytes) -> Pair:
    """The pair in two files of these paths with these contents; raises :class:`InvalidRequest` naming file and remedy."""
    try:
        leaf = x509.load_pem_x509_certificates(certificate_pem)[0]
        public = leaf.public_key()
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
        said = _issued(leaf)
    except x509.ExtensionNotFound:
        found = ()
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            f"{certificate} holds no certificate in PEM form ({_short(error)}); the host's own comes first, then those "
            "between it and the authority's"
        ) from error
    if not found:
        raise InvalidRequest(
            f"{certificate} names no host in its subject alternative names; have it issued with them, such as "
            "*.acme.example.org"
        )
    try:
        secret = load_pem_private_key(key_pem, None)
    except TypeError as error:
        raise InvalidRequest(f"{key} is encrypted, and Caddy has no password for it; write it decrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"{key} holds no private key in PEM form ({_short(error)})") from error
    known = isinstance(secret, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) or (
        isinstance(secret, ec.EllipticCurvePrivateKey) and isinstance(secret.curve, CURVES)
    )
    if not known:
        raise InvalidRequest(f"{key} is of a kind that Caddy does not know; use RSA, ECDSA on P-256, or Ed25519")
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != secret.public_key().public_bytes(*form):
        raise InvalidRequest(f"{key} is not the key of {certificate}; put both of one issue there")
    digest = hashlib.sha256(certificate_pem).hexdigest()[:16]
    return Pair(name, certificate, key, found, said, leaf.not_valid_before_utc.timestamp(), digest)


def by_name(pairs: Iterable[Pair]) -> dict[str, Issued]:
    """What each name in the pairs is covered by; of several, the one that lasts longest."""
    found: dict[str, Issued] = {}
    for one in pairs:
        for name in one.names:
            if name not in found or found[name].not_after < one.issued.not_after:
                found[name] = one.issued
    return found


def covering(names: Mapping[str, Issued], host: str) -> Issued | None:
    """What covers ``host``: a certificate for it, or for all names beside it."""
    return names.get(host) or names.get(f"*.{host.partition('.')[2]}")


def _issued(certificate: x509.Certificate) -> Issued:
    return Issued(_spoken(certificate.issuer), certificate.not_valid_after_utc.timestamp())


def _spoken(name: x509.Name) -> str:
    parts = [
        str(value.value)
        for oid in (x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME)
        for value in name.get_attributes_for_oid(oid)[:1]
    ]
    said = parts[0] + "".join(f" ({part})" for part in parts[1:]) if parts else name.rfc4514_string()
    return "".join(c if c.isprintable() else "?" for c in said[:MAX_ISSUER])


def _short(error: Exception) -> str:
    return str(error)[:100]
