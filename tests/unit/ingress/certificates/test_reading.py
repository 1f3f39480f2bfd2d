"""Which pairs are right, what is told of those that are not, and what a name is covered by."""

from __future__ import annotations

import time

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from ingress.certificates import reading
from ingress.certificates.reading import Issued, Pair
from stackpad.errors import InvalidRequest
from tests import certs

EC = certs.new_key()
GOOD = certs.certificate(("*.acme.example.org", "WWW.example.org"), EC, issuer="R11", organisation="Let's Encrypt")


def pair(certificate: bytes = GOOD, key: bytes | None = None) -> Pair:
    return reading.pair("acme", "/c/acme.crt", "/c/acme.key", certificate, certs.private(EC) if key is None else key)


def test_a_pair_is_read() -> None:
    found = pair()
    assert found.names == ("*.acme.example.org", "www.example.org")
    assert found.issued.issuer == "R11 (Let's Encrypt)"
    assert 29 < (found.issued.not_after - time.time()) / 86400 < 31
    assert found.unusable(time.time()) is None
    chain = pair(GOOD + certs.certificate((), certs.new_key(), authority=True))
    assert (chain.names, chain.digest == found.digest) == (found.names, False)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate(), EC])
def test_kinds_of_keys(key: certs.Key) -> None:
    assert pair(certs.certificate(("a.example",), key), certs.private(key)).names == ("a.example",)


DSA, K1 = dsa.generate_private_key(2048), ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (b"", b"", "/c/acme.crt holds no certificate in PEM form"),
        (b"\xff\x00" * 100, b"", "/c/acme.crt holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"", "/c/acme.crt holds no certificate"),
        (certs.private(EC), GOOD, "/c/acme.crt holds no certificate in PEM form"),
        (certs.certificate((), EC), certs.private(EC), "/c/acme.crt names no host"),
        (GOOD, b"", "/c/acme.key holds no private key"),
        (GOOD, GOOD, "/c/acme.key holds no private key"),
        (GOOD, certs.private(EC, b"secret"), "/c/acme.key is encrypted"),
        (GOOD, certs.private(certs.new_key()), "/c/acme.key is not the key of /c/acme.crt"),
        (certs.certificate(("a.example",), DSA), certs.private(DSA), "of a kind that Caddy does not know"),
        (certs.certificate(("a.example",), K1), certs.private(K1), "of a kind that Caddy does not know"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(certificate: bytes, key: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pair(certificate, key)
    assert words in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_its_time_is_looked_at_anew() -> None:
    found = pair()
    assert "has expired; put a new" in str(found.unusable(found.issued.not_after))
    assert "not valid yet" in str(found.unusable(found.not_before - 1))


def test_of_several_the_one_that_lasts_covers() -> None:
    short = pair(certs.certificate(("*.acme.example.org",), EC, issuer="short", last=2))
    names = reading.by_name([short, pair(), short])
    for host, issuer in (
        ("a.acme.example.org", "R11 (Let's Encrypt)"),
        ("www.example.org", "R11 (Let's Encrypt)"),
        ("acme.example.org", None),
        ("a.b.acme.example.org", None),
        ("example.org", None),
        ("org", None),
    ):
        found = reading.covering(names, host)
        assert (found.issuer if found else None) == issuer, host


def test_what_a_handshake_shows_is_read_and_made_safe_to_show() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    def der(issuer: str) -> bytes:
        return x509.load_pem_x509_certificate(certs.certificate((), EC, issuer=issuer)).public_bytes(Encoding.DER)

    assert reading.issued(der("a\x1b[31mb\u202e")) == Issued("a?[31mb?", reading.issued(der("x")).not_after)
    assert reading.issued(der("")).issuer == ""
    assert len(reading.issued(der("x" * 64)).issuer) <= reading.MAX_ISSUER
    with pytest.raises(InvalidRequest, match="cannot be read"):
        reading.issued(b"\x30\x00")
