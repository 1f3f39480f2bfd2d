"""The vocabulary of container labels, and the strict reading of it.

Pure. A container is a tenant's: what it says is checked here, once, and nothing unchecked goes further. A label that
cannot be meant costs its own container its route and is reported with what would be right; it costs nobody else
anything.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from stackpad import routeoptions
from stackpad.errors import InvalidRequest, Together, shown
from stackpad.hosts import LABEL, WILDCARD, above, domain_name, host_name, near_label
from stackpad.routeoptions import PATH, RouteOptions

PREFIX = "stackpad."
TYPE, PORT, PROTOCOL = "stackpad.type", "stackpad.port", "stackpad.protocol"
PROJECT, ORG, ENVIRONMENT, DOMAINS = "stackpad.project", "stackpad.org", "stackpad.environment", "stackpad.domains"
KNOWN = (TYPE, PORT, PROTOCOL, PATH, PROJECT, ORG, ENVIRONMENT, DOMAINS, *routeoptions.KNOWN)
ONLY_WEB = (PORT, PROTOCOL, PATH, DOMAINS, *routeoptions.KNOWN)
"""What is of use to a web service alone."""

COMPOSE_SERVICE = "com.docker.compose.service"
PRODUCTION = "production"
MAX_DOMAINS = 50

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_REPLICA = re.compile(r"[-_][0-9]{1,4}$")


class Kind(StrEnum):
    """What a service is; only ``web`` is ever exposed."""

    WEB = "web"
    DATABASE = "database"
    CACHE = "cache"
    GENERIC = "generic"


class Wire(StrEnum):
    """What a web service speaks: HTTP/1.1, or HTTP/2 without TLS (gRPC)."""

    HTTP = "http"
    H2C = "h2c"


@dataclass(frozen=True, slots=True)
class WebRequest:
    """What a web container asks for. ``port`` is ``None`` if the label does not say; ``path`` has no trailing slash."""

    org: str
    project: str
    environment: str
    service: str
    port: int | None
    path: str
    wire: Wire
    domains: tuple[str, ...]
    options: RouteOptions = routeoptions.NONE

    def platform_host(self, base_domain: str) -> str:
        """The host name that follows from organisation, project and environment."""
        return _platform_host(self.project, self.environment, self.org, base_domain)


@functools.lru_cache(maxsize=32768)  # the table is made anew for every change, with thousands of these
def _platform_host(project: str, environment: str, org: str, base_domain: str) -> str:
    first = project if environment == PRODUCTION else f"{project}-{environment}"
    return host_name(f"{first}.{org}.{base_domain}")


def kind(labels: Mapping[str, str]) -> Kind:
    """What the container is, ``generic`` if it does not say; raises :class:`InvalidRequest` for a type there is not."""
    text = labels.get(TYPE, Kind.GENERIC)
    try:
        return Kind(text)
    except ValueError as error:
        raise InvalidRequest(f"{TYPE}={shown(text)} is unknown; use one of {', '.join(Kind)}") from error


def concerns(labels: Mapping[str, str]) -> bool:
    """Whether a container says anything to us at all."""
    return any(label.startswith(PREFIX) for label in labels)


def ours(label: str) -> bool:
    """Whether a label says anything to us: one of ours, or Compose's name of the service."""
    return label.startswith(PREFIX) or label == COMPOSE_SERVICE


def check(labels: Mapping[str, str]) -> Kind:
    """What the container is, after a look at all its labels.

    Raises :class:`InvalidRequest` for labels or a type there are not, and where labels of a web service stand on a
    container that does not say that it is one: it would wait for visitors for ever, and nobody would tell.
    """
    together = Together()
    for label in labels:
        if label.startswith(PREFIX) and label not in KNOWN:
            together.read(functools.partial(_unknown, label), None)
    if TYPE not in labels:
        together.read(functools.partial(_not_idle, labels), None)
    found = together.read(lambda: kind(labels), Kind.GENERIC)
    together.done()
    return found


def _unknown(label: str) -> None:
    close = difflib.get_close_matches(label, KNOWN, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KNOWN)}"
    raise InvalidRequest(f"unknown label {shown(label)}; {hint}")


def _not_idle(labels: Mapping[str, str]) -> None:
    for label in ONLY_WEB:
        if label in labels:
            raise InvalidRequest(f"{label} is set, but not {TYPE}; only a container with {TYPE}={Kind.WEB} is exposed")


def web(labels: Mapping[str, str], *, name: str, network: str, org: str, base_domain: str) -> WebRequest:
    """What a container of type ``web`` asks for.

    ``network`` is the name of its network, from which project and environment follow where no label names them:
    ``my-app-production`` is ``production`` of ``my-app``. ``org`` is the node's default. Raises
    :class:`InvalidRequest` for all labels that cannot be meant.
    """
    together = Together()
    read = together.read
    read(lambda: check(labels), Kind.WEB)
    project, environment = _from_network(network)
    service = labels.get(COMPOSE_SERVICE) or _REPLICA.sub("", name) or name
    request = WebRequest(
        org=read(lambda: _label(ORG, labels.get(ORG, org)), ""),
        project=read(lambda: _named(PROJECT, labels, project, network), ""),
        environment=read(lambda: _named(ENVIRONMENT, labels, environment, network), ""),
        service=service[:128],
        port=read(lambda: _port(labels.get(PORT)), None),
        path=read(lambda: _path(labels.get(PATH, "")), ""),
        wire=read(lambda: _wire(labels.get(PROTOCOL, Wire.HTTP)), Wire.HTTP),
        domains=read(lambda: _domains(labels.get(DOMAINS, "")), ()),
        options=read(lambda: routeoptions.read(labels), routeoptions.NONE),
    )
    together.done()
    _are_custom(request, base_domain)
    return request


def _are_custom(request: WebRequest, base_domain: str) -> None:
    """Whether the names that a container asks for are its own to have."""
    own = request.platform_host(base_domain)
    for domain in request.domains:
        _is_custom(domain, own, base_domain)
    canonical = request.options.canonical
    if canonical and canonical != own and canonical not in request.domains:
        raise InvalidRequest(
            f"{routeoptions.CANONICAL}={canonical} is none of the container's own names; add it to {DOMAINS}, or use "
            f"one of {', '.join((own, *request.domains)[:5])}"
        )


def _is_custom(domain: str, own: str, base_domain: str) -> None:
    bare = domain.removeprefix(WILDCARD)
    if domain != own and (bare == base_domain or bare.endswith(f".{base_domain}")):
        raise InvalidRequest(
            f"{DOMAINS}: {domain} lies under {base_domain}, where names follow from project and organisation; "
            "a custom domain is one of your own"
        )
    if domain == above(base_domain):
        raise InvalidRequest(
            f"{DOMAINS}: {domain} would stand for {base_domain} too, where names follow from project and organisation; "
            "name the domains one by one"
        )


def _from_network(network: str) -> tuple[str, str]:
    project, dash, environment = network.rpartition("-")
    return (project, environment) if dash else (network, PRODUCTION)


def _named(label: str, labels: Mapping[str, str], otherwise: str, network: str) -> str:
    if label in labels:
        return _label(label, labels[label])
    try:
        return _label(label, otherwise)
    except InvalidRequest as error:
        # Compose joins with '_' what it names itself, so this is met by people who have set nothing at all.
        raise InvalidRequest(
            f"the network's name {shown(network)} gives {shown(otherwise)} for {label}, which cannot be part of a host "
            f"name; set the label {label}, or name the network as in my-app-production"
        ) from error


def _label(label: str, text: str) -> str:
    lowered = text.lower()
    # Letters of other scripts can become ASCII when lowered; a name is what it was written as.
    if not text.isascii() or not LABEL.fullmatch(lowered):
        near = near_label(text)
        raise InvalidRequest(
            f"{label}={shown(text)} cannot be part of a host name: use up to 63 letters, digits and '-', not at its ends"
            + (f", such as {label}={near}" if near else "")
        )
    return lowered


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InvalidRequest(f"{PORT}={shown(text)} is not a port between 1 and 65535")
    return int(text)


def _path(text: str) -> str:
    stripped = text.rstrip("/")
    if stripped and (len(stripped) > 200 or not _PATH.fullmatch(stripped) or ".." in stripped):
        raise InvalidRequest(f"{PATH}={shown(text)} is not a path such as /api: letters, digits and ._~- between slashes")
    return stripped


def _wire(text: str) -> Wire:
    try:
        return Wire(text)
    except ValueError as error:
        raise InvalidRequest(f"{PROTOCOL}={shown(text)} is unknown; use {' or '.join(Wire)}") from error


def _domains(text: str) -> tuple[str, ...]:
    if len(text) > MAX_DOMAINS * 254:
        raise InvalidRequest(f"{DOMAINS} has {len(text)} characters; at most {MAX_DOMAINS} domains go there")
    found = dict.fromkeys(domain_name(word) for word in re.split(r"[\s,]+", text) if word)
    if len(found) > MAX_DOMAINS:
        raise InvalidRequest(f"{DOMAINS} names {len(found)} domains; at most {MAX_DOMAINS} go there")
    return tuple(found)
