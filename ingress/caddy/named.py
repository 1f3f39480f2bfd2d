"""Services found by name: what Caddy asks for at each visit instead of having it in its configuration; pure.

Caddy ends every WebSocket at a change of its configuration, whoever's change it is, where it cannot keep them (2.6).
With ``ROUTING=srv`` hosts that ask for nothing special are not in its configuration at all: it looks up an SRV record
(RFC 2782) for the host of each visit, and remembers the answer for a second. So such hosts come, go and change without
a write.

Go's resolver takes no address for a record's target, so that targets are names with the address in them, which are looked
up here, too. Who is not up has a target as well, the ingress's own pages: Caddy could not tell him from somebody unknown.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

from ingress.caddy import pages, passing, replies
from ingress.caddy.replies import Json
from ingress.routes import HostRoute, Table
from ingress.upstreams.stable import TURN
from stackpad import routeoptions
from stackpad.hosts import WILDCARD, above
from stackpad.labels import Wire
from stackpad.upstreams import TURNS

ZONE = "web.stackpad."
"""What is behind a host in the names Caddy asks for; it is asked for nowhere else."""

REFRESH = "1s"
"""How long Caddy remembers an answer."""

GRACE, AGAIN = "grace_period", "2s"
"""The field by which Caddy goes on with what it knows while nobody answers (since 2.8), and for how long it does before
it asks again. It asks nobody in between, whatever the reason was for the one answer it has not got: so, not for long.
"""

ASKABLE = "(?i)^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?([.][a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$"
"""Hosts that can be asked for, but for their length. Go's resolver refuses others without a question, and Caddy would try
again for long.
"""

MOST = 6
"""Records in one answer, chosen by chance; fewer where it would not fit a datagram."""

DATAGRAM, NAME = 512, 253
"""Bytes of an answer without EDNS, and characters of a name without the dot at its end, at most (RFC 1035 2.3.4)."""

IDLE = "3s"
"""How long Caddy keeps a connection it does not use: less than until a stable upstream's address has its next turn."""

HOST = "{http.request.host}"

Hosts = Mapping[str, Sequence[str]]
"""Upstreams by host, as Caddy dials them."""

_ADDRESS = "ip-"
_ZONE = dns.name.from_text(ZONE)


def serves(host: HostRoute) -> bool:
    """Whether a host can be found by name: all of it is one service, which speaks HTTP/1 and asks for nothing special."""
    first = host.paths[0]
    if (
        len(host.host) + len(ZONE) > NAME
        or len(host.paths) > 1
        or first.path
        or first.redirect
        or first.wire is not Wire.HTTP
    ):
        return False
    asked = first.options
    return not host.host.startswith(WILDCARD) and (
        asked is routeoptions.NONE or replace(asked, canonical="") == routeoptions.NONE
    )


def split(table: Table) -> tuple[list[HostRoute], list[HostRoute]]:
    """The hosts of a table that are found by name, and those that are in Caddy's configuration.

    Among the latter are names below a wildcard: it is looked for first, and would have their visitors.
    """
    wild = {host.host for host in table.hosts if host.host.startswith(WILDCARD)}
    found: tuple[list[HostRoute], list[HostRoute]] = ([], [])
    for host in table.hosts:
        found[not serves(host) or above(host.host) in wild].append(host)
    return found


def hosts(table: Table) -> Hosts:
    """Upstreams of those that are found by name; none where nobody is up."""
    return {host.host: host.paths[0].upstreams for host in split(table)[0]}


def answer(query: bytes, known: Hosts | None, pages_at: str, now: float) -> bytes | None:
    """The answer to a question of Caddy's, ``None`` to what is no question.

    ``known`` is ``None`` until there is a table. ``pages_at`` is address and port of the ingress's own pages, ``now`` the
    Unix time, by which the two forms of a stable upstream's address take turns.
    """
    try:
        asked = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return None
    if asked.flags & dns.flags.QR or asked.opcode() != dns.opcode.QUERY or len(asked.question) != 1:
        return None
    answered = dns.message.make_response(asked)
    answered.flags |= dns.flags.AA
    (question,) = asked.question
    if not question.name.is_subdomain(_ZONE):
        answered.set_rcode(dns.rcode.REFUSED)
    elif known is None:
        answered.set_rcode(dns.rcode.SERVFAIL)
    elif question.rdtype == dns.rdatatype.SRV:
        host = question.name.relativize(_ZONE).to_text().lower()
        dials = list(known.get(host, ()))
        chosen = random.sample(dials, min(MOST, len(dials))) or [pages_at]
        texts = [_target(dial, now) for dial in chosen]
        while texts:
            answered.answer = [dns.rrset.from_text_list(question.name, 0, "IN", "SRV", texts)]
            if len(answered.to_wire(max_size=65535)) <= DATAGRAM:
                break
            texts.pop()
    elif question.rdtype in {dns.rdatatype.A, dns.rdatatype.AAAA}:
        address = _address(question.name)
        if address is None:
            answered.set_rcode(dns.rcode.NXDOMAIN)
        elif (address.version == 6) == (question.rdtype == dns.rdatatype.AAAA):
            answered.answer = [dns.rrset.from_text(question.name, 0, "IN", question.rdtype, str(address))]
    return answered.to_wire()


def page(host: str, known: Collection[str] | None) -> tuple[int, str]:
    """Status and page for a visitor of a host that nobody is found for; ``known`` are all hosts, by name or not.

    One that has just come to ask for something special is on its way into Caddy's configuration.
    """
    status = 404 if known is not None and host.lower().rstrip(".") not in known else 503
    return status, pages.page(status)


def handler(resolver: str, *, keep_streams: bool, grace: bool) -> Json:
    """What is done with all hosts that are found by name; ``resolver`` is address and port of who answers."""
    unaskable = {"not": [{"vars_regexp": {HOST: {"pattern": ASKABLE}}}]}
    proxy = _proxy(resolver, keep_streams=keep_streams, grace=grace)
    return replies.subroute([replies.refusal(unaskable, replies.static(404)), {"handle": [proxy]}])


def _proxy(resolver: str, *, keep_streams: bool, grace: bool) -> Json:
    servers = {"addresses": [f"udp/{resolver}"]}
    sources: Json = {"source": "srv", "name": f"{HOST}.{ZONE}", "refresh": REFRESH, "resolver": servers}
    made: Json = {
        "handler": "reverse_proxy",
        "dynamic_upstreams": {**sources, **({GRACE: AGAIN} if grace else {})},
        "transport": {
            "protocol": "http",
            "dial_timeout": "1s",
            "resolver": servers,
            "keep_alive": {"probe_interval": "30s", "max_idle_conns_per_host": 32, "idle_timeout": IDLE},
        },
        # Who comes while the ingress is started anew waits for it.
        "load_balancing": {"try_duration": "5s", "try_interval": "50ms", "selection_policy": passing.IN_TURN},
    }
    if keep_streams:
        made["stream_close_delay"] = passing.DRAIN
    return made


def _target(dial: str, now: float) -> str:
    """An SRV record's data for an upstream."""
    host, _, port = dial.replace(TURN, TURNS[int(now) % 10 >= 5]).rpartition(":")
    return f"0 1 {port} {_ADDRESS}{ipaddress.ip_address(host.strip('[]')).packed.hex()}.{ZONE}"


def _address(name: dns.name.Name) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address in the name of a target."""
    label = name.relativize(_ZONE).to_text().lower()
    try:
        return ipaddress.ip_address(bytes.fromhex(label.removeprefix(_ADDRESS))) if label.startswith(_ADDRESS) else None
    except ValueError:
        return None
