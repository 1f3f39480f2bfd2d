"""What a web service may ask of the proxy in front of it beyond being served; pure.

Each label is read strictly: what passes has no control characters, no braces (Caddy would replace what stands in them)
and a bounded size. What protects (``auth``, ``allow``) and cannot be read is an error, never left out: the container is
not served at all then. Clear text passwords are refused, and never repeated in a message.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from stackpad.errors import InvalidRequest, Together, shown
from stackpad.hosts import host_name

T = TypeVar("T")

PATH = "stackpad.path"
CANONICAL, STRIP, AUTH, ALLOW = "stackpad.canonical", "stackpad.strip", "stackpad.auth", "stackpad.allow"
HEADERS, BODY, STICKY, MAINTENANCE = "stackpad.headers", "stackpad.body", "stackpad.sticky", "stackpad.maintenance"
KNOWN = (CANONICAL, STRIP, AUTH, ALLOW, HEADERS, BODY, STICKY, MAINTENANCE)

MAX_USERS, MAX_ALLOWED, MAX_HEADERS = 50, 200, 20
MAX_TEXT = 16384
"""Characters of one label."""

MAX_VALUE = 2048
MAX_BODY = 2**40

_USER = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
MAX_COST = 10
"""Of a bcrypt hash: each step doubles what one guess of a visitor's costs the proxy that all share (10: 60 ms)."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_VALUE = re.compile(rf"[\x20-\x7a~]{{1,{MAX_VALUE}}}")
_PROXYS = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length", "content-encoding", "content-range", "alt-svc", "date", "expect",
    "early-data", "host", "http2-settings", "status",
))  # fmt: skip
"""What frames a message or belongs to one connection: the proxy's own to say."""

_SIZE = re.compile(r"([1-9][0-9]{0,12}) ?([a-z]{0,3})", re.IGNORECASE)
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmg", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What the proxy does for a route besides passing requests on; by default nothing.

    ``auth`` are pairs of user and bcrypt hash, ``allow`` networks, ``headers`` names and values, ``body`` bytes. The
    order in which a label lists things does not matter.
    """

    canonical: str = ""
    strip: bool = False
    auth: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    allow: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: int | None = None
    sticky: bool = False
    maintenance: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that say something, for people."""
        return self.differences(NONE)

    @property
    def guard(self) -> str:
        """Who may come in, as a short text that stays the same over restarts and versions; empty for everybody."""
        if not self.auth and not self.allow:
            return ""  # mostly, and there are thousands of these at every change
        return hashlib.sha256(repr((sorted(self.auth), sorted(self.allow))).encode()).hexdigest()[:16]

    def differences(self, other: RouteOptions) -> tuple[str, ...]:
        """The labels in which two differ."""
        return tuple(f"stackpad.{f.name}" for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


NONE = RouteOptions()


def read(labels: Mapping[str, str]) -> RouteOptions:
    """The options that ``labels`` ask for; raises :class:`InvalidRequest` for all that cannot be meant."""
    if not any(label in labels for label in KNOWN):
        return NONE  # one for all: thousands ask for nothing, and are compared at every change
    for label in KNOWN:
        if len(labels.get(label, "")) > MAX_TEXT:
            raise InvalidRequest(f"{label} has {len(labels[label])} characters; at most {MAX_TEXT} go there")
    together = Together()

    def option(label: str, reader: Callable[[str], T], otherwise: T) -> T:
        return together.read(lambda: reader(labels[label]), otherwise) if label in labels else otherwise

    options = RouteOptions(
        canonical=option(CANONICAL, host_name, ""),
        strip=together.read(lambda: _strip(labels), False),
        auth=option(AUTH, _auth, ()),
        allow=option(ALLOW, _allow, ()),
        headers=option(HEADERS, _headers, ()),
        body=option(BODY, _size, None),
        sticky=together.read(lambda: _flag(STICKY, labels), False),
        maintenance=together.read(lambda: _flag(MAINTENANCE, labels), False),
    )
    together.done()
    return options


def _strip(labels: Mapping[str, str]) -> bool:
    strip = _flag(STRIP, labels)
    if strip and not labels.get(PATH, "").strip("/"):
        raise InvalidRequest(f"{STRIP}=true, but there is no path to strip; say which with {PATH}, as in {PATH}=/api")
    return strip


def _flag(label: str, labels: Mapping[str, str]) -> bool:
    text = labels.get(label, "false")
    if text not in {"true", "false"}:
        raise InvalidRequest(f"{label}={shown(text)} is neither true nor false")
    return text == "true"


def _words(label: str, text: str, most: int, example: str) -> list[str]:
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words:
        # Most likely a variable that was not set: to serve everybody then is not what was meant.
        raise InvalidRequest(f"{label} is empty; write it as in {label}={example}, or leave the label out")
    if len(words) > most:
        raise InvalidRequest(f"{label} has {len(words)} entries; at most {most} go there")
    return words


def _auth(text: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for number, word in enumerate(_words(AUTH, text, MAX_USERS, "user:$2y$10$..."), start=1):
        user, colon, secret = word.partition(":")
        # Until it is known to be a hash, a word may be a password: it is not shown, and neither is what may be its half.
        if not colon or not _USER.fullmatch(user):
            raise InvalidRequest(
                f"{AUTH}: entry {number} is not user:hash, with up to 64 letters, digits and ._@+- for the user; make it "
                "with htpasswd -nbBC 10 USER PASSWORD"
            )
        hashed = _BCRYPT.fullmatch(secret)
        if hashed is None:
            raise InvalidRequest(
                f"{AUTH}: what follows user {user} is not a bcrypt hash ($2y$10$ and 53 characters); make it with "
                "htpasswd -nbBC 10 USER PASSWORD, and write each $ twice in a Compose file"
            )
        if not 4 <= int(hashed["cost"]) <= MAX_COST:
            raise InvalidRequest(
                f"{AUTH}: the hash of user {user} has cost {hashed['cost']}, and each guess would cost the proxy that "
                f"much; use 4 to {MAX_COST}, as in htpasswd -nbBC 10 USER PASSWORD"
            )
        if user in found:
            raise InvalidRequest(f"{AUTH} names user {user} twice; leave one out")
        found[user] = secret
    return tuple(sorted(found.items()))


def _allow(text: str) -> tuple[str, ...]:
    return tuple(sorted({_network(word) for word in _words(ALLOW, text, MAX_ALLOWED, "192.0.2.0/24,2001:db8::/32")}))


def _network(word: str) -> str:
    try:
        if "%" in word:
            raise ValueError("a zone is a name on one machine, and may be any text")
        network = ipaddress.ip_network(word, strict=False)
    except ValueError as error:
        raise InvalidRequest(
            f"{ALLOW}: {shown(word)} is no address or range such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
        ) from error
    if "/" in word and ipaddress.ip_address(word.partition("/")[0]) != network.network_address:
        raise InvalidRequest(f"{ALLOW}: {shown(word)} is an address inside of a range; write {network} for all of it")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        # What connects over IPv4 is seen with its IPv4 address.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{network.prefixlen - 96}"
    return network.with_prefixlen


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, tuple[str, str]] = {}
    for entry in _entries(text):
        name, colon, value = (part.strip(" \t") for part in entry.partition(":"))
        if not colon or not _NAME.fullmatch(name):
            raise InvalidRequest(f"{HEADERS}: {shown(entry)} is not a header such as X-Frame-Options: DENY")
        lowered = name.lower()
        if lowered in _PROXYS or lowered.startswith("sec-websocket-"):
            raise InvalidRequest(f"{HEADERS}: {name} is the proxy's own to set; leave it out")
        if lowered == "set-cookie":
            raise InvalidRequest(f"{HEADERS}: {name} would give all visitors the same cookie; set it in the service")
        if not _VALUE.fullmatch(value):
            raise InvalidRequest(
                f"{HEADERS}: the value {shown(value)} of {name} is not one to {MAX_VALUE} printable ASCII characters "
                "without braces"
            )
        if lowered in found:
            raise InvalidRequest(f"{HEADERS} names {name} twice; leave one out")
        found[lowered] = (name, value)
    if not found:
        raise InvalidRequest(f"{HEADERS} is empty; write it as in {HEADERS}=X-Frame-Options: DENY, or leave it out")
    if len(found) > MAX_HEADERS:
        raise InvalidRequest(f"{HEADERS} has {len(found)} entries; at most {MAX_HEADERS} go there")
    return tuple(found[name] for name in sorted(found))


def _entries(text: str) -> Iterator[str]:
    for entry in re.split(r"[\n|]", text.replace("\r\n", "\n")):
        if stripped := entry.strip(" \t"):
            yield stripped


def _size(text: str) -> int:
    fitting = _SIZE.fullmatch(text) if text.isascii() else None
    unit = _UNITS.get(fitting[2].lower()) if fitting else None
    if fitting is None or unit is None or int(fitting[1]) * unit > MAX_BODY:
        raise InvalidRequest(
            f"{BODY}={shown(text)} is not a size such as 10MB, 512k or 1GiB (k, M, G and KiB, MiB, GiB count by 1024, "
            "kB, MB, GB by 1000), up to 1024GiB"
        )
    return int(fitting[1]) * unit
