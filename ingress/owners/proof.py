"""What proves that a domain is somebody's, and how a person is told what to do for it; pure.

DNS: a TXT record at ``_stackpad.<domain>`` with a token that follows from owner and domain, so that nobody can use
another's. HTTP: the domain, asked for a number made up just now, answers with what only this ingress can make of it. That
shows that the domain points here, and nothing about who of those here it belongs to.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable

from ingress.owners.ledger import How, Owner
from stackpad.hosts import host_name

METHODS = (How.DNS, How.HTTP)
PREFIX = "stackpad-verify="
PATH = "/.well-known/stackpad/"

_NONCE = re.compile(r"[0-9a-f]{32}")


def domain_name(text: str) -> str:
    """A domain as an operator writes it, ``*.`` in front or not; raises ``InvalidRequest`` naming the value."""
    star, rest = ("*.", text.strip()[2:]) if text.strip().startswith("*.") else ("", text)
    return star + host_name(rest)


def record_name(domain: str) -> str:
    """Where the TXT record is looked for; that of a wildcard is at the name below which it is."""
    return f"_stackpad.{domain.removeprefix('*.')}"


def token(secret: bytes, owner: Owner, domain: str) -> str:
    """What the TXT record has to say after :data:`PREFIX`."""
    return _digest(secret, "dns", owner, domain)[:40]


def answer(secret: bytes, nonce: str, domain: str) -> str | None:
    """What the domain has to answer at :data:`PATH` and ``nonce``; ``None`` for one that none of ours has made up."""
    return _digest(secret, "http", nonce, domain) if _NONCE.fullmatch(nonce) else None


def proves(texts: Iterable[str], expected: str) -> bool:
    """Whether one of the TXT records says what is expected, and nothing else."""
    wanted = f"{PREFIX}{expected}".encode()
    return any(hmac.compare_digest(text.strip().encode(), wanted) for text in texts)


def remedy(domain: str, expected: str, methods: Collection[How], *, dns_only: bool) -> str:
    """What a person has to do, with ``expected`` as their token."""
    ways: list[str] = []
    if How.DNS in methods:
        ways.append(f'create the DNS record {record_name(domain)}. TXT "{PREFIX}{expected}"')
    if How.HTTP in methods and not dns_only:
        ways.append(f"point {domain} to this machine (A, AAAA or CNAME)")
    return ", or ".join([*ways, f"have the operator say stackpad domain allow {domain}"])


def _digest(secret: bytes, *parts: str) -> str:
    # No part can have a NUL in it: they are host names, owners and numbers.
    return hmac.digest(secret, "\0".join(parts).encode(), "sha256").hex()
