"""The grammar of host names; pure.

RFC 1123 §2.1 with RFC 952's letters, digits and hyphens, RFC 1035's lengths, RFC 5891's ASCII form for names of other
scripts. Nothing that passes has a meaning to Caddy beyond its letters: no brace, port or address, and a wildcard only
where it is asked for.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

import idna

from stackpad.errors import InvalidRequest

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
WILDCARD = "*."
MAX_LENGTH = 253
"""Characters of a whole name (RFC 1035 §2.3.4: 255 octets on the wire)."""


def host_name(text: str) -> str:
    """``text`` in the form in which it is compared: ASCII, lower case, no trailing dot.

    Raises :class:`InvalidRequest` naming the value if it is not a host name of at least two labels.
    """
    name = text.strip().removesuffix(".")
    if not name.isascii() and len(name) <= MAX_LENGTH:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise InvalidRequest(f"{ascii(text)[:80]} is not a domain name: {error}") from error
    name = name.lower()
    labels = name.split(".")
    if len(name) > MAX_LENGTH or len(labels) < 2 or not all(LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest(
            f"{ascii(text)[:80]} is not a domain name such as www.example.org: letters, digits and '-' between dots, "
            "no wildcard, port or path"
        )
    if labels[-1].isdigit() or _is_address(name):
        raise InvalidRequest(f"{ascii(text)[:80]} is an address, not a domain name")
    for label in labels:
        if label.startswith("xn--"):
            _decodes(label, text)
    return name


def domain_name(text: str) -> str:
    """``text`` as :func:`host_name` has it, or a wildcard, which stands for one label: ``*.example.org``."""
    rest = text.strip().removeprefix("*.")
    if "*" in rest:
        raise InvalidRequest(
            f"{ascii(text)[:80]} is not a domain name: a wildcard is the whole first label, as in *.example.org"
        )
    name = host_name(rest)
    if text.strip() == rest:
        return name
    if len(name) + 2 > MAX_LENGTH:
        raise InvalidRequest(f"{ascii(text)[:80]} is too long; a name has up to {MAX_LENGTH} characters")
    return f"{WILDCARD}{name}"


def near_label(text: str) -> str:
    """What ``text`` may be called as a part of a host name; empty where nothing of it can be kept."""
    found = re.sub("[^a-z0-9]+", "-", text.lower() if text.isascii() else "").strip("-")[:63].rstrip("-")
    return found if LABEL.fullmatch(found) else ""


def above(name: str) -> str:
    """The wildcard that ``name`` is one label below; empty for one that is a wildcard itself."""
    first, _, rest = name.partition(".")
    return f"{WILDCARD}{rest}" if first not in {"*", ""} else ""


def covered(name: str, names: Collection[str]) -> bool:
    """Whether ``name`` is among ``names``, or one label below a wildcard among them."""
    return WILDCARD[0] not in name and (name in names or above(name) in names)


def _decodes(label: str, text: str) -> None:
    """An ASCII form nobody can have registered would only make certificates fail, again and again."""
    try:
        idna.decode(label)
    except (idna.IDNAError, UnicodeError) as error:
        raise InvalidRequest(
            f"{ascii(text)[:80]} is not a domain name: {label} stands for no letters ({error})"
        ) from error


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
