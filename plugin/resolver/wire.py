"""DNS messages: a question's bytes in, an answer's bytes out, or the word that it is to be forwarded.

Pure. dnspython reads and writes (RFC 1035; EDNS: RFC 6891; minimal answers to ANY: RFC 8482), which costs a fifth of a
millisecond; answers that were given before are kept (:mod:`plugin.resolver.cache`), which spares most of that. It is
shown nothing but one short question (:func:`_is_question`): a long message of records whose names point at each other
keeps it busy for many seconds, and all of the plugin with it. What is answered here is marked as authoritative: Docker's
resolver before 24 asks the next server after any other "no such name".
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from plugin.model import IPAddress
from plugin.resolver.cache import Shelves
from plugin.resolver.zone import Environment, Found, Replica, Unknown, View, look_back, look_up

TTL = 5
"""Seconds an answer may be kept, also one that says there is nothing."""

PAYLOAD = 1232
"""Bytes of a UDP answer that no path fragments (DNS flag day 2020); less if the asker says so."""

MOST, MOST_DATAGRAM = 1000, 100
"""Records of one answer, and of one in a datagram, where no more than that fit; of more there are some in each answer.

They are chosen before they are made: a thousand replicas that declare 64 ports each would take a second.
"""

LONGEST = 512
"""Bytes of a question that is read, which are also the most that anybody may send unasked (RFC 1035 §4.2.1).

Header, the longest name, type and class are 271; EDNS is 11 more (RFC 6891), the largest cookie 44 (RFC 7873), the
asker's subnet 24 (RFC 7871): 350, and padded to the next multiple of 128 (RFC 8467) 384.
"""

_T = TypeVar("_T")
_SHORTEST = 12
_OPT = b"\0\0\x29"
"""How a record of EDNS begins: its name is the root, its type 41."""
_IN = dns.rdataclass.IN
_HOSTS = ((4, dns.rdatatype.A), (6, dns.rdatatype.AAAA))
_OWN_TYPES = {dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV, dns.rdatatype.ANY}
_class: Callable[..., Any] = dns.rdata.get_rdata_class  # it has no types
_A, _AAAA, _PTR, _SRV = (
    _class(_IN, kind) for kind in (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.PTR, dns.rdatatype.SRV)
)
_SOA = dns.rdata.from_text(_IN, dns.rdatatype.SOA, f"resolver.stackpad. nobody.stackpad. 1 3600 600 86400 {TTL}")


class Verdict(Enum):
    """What to do with a question that has no answer here."""

    FORWARD = "forward"
    DROP = "drop"


class Answerer:
    """Answers questions from one view after the other; ``hits`` were kept, ``records`` have been made for the others."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._shelves = Shelves()
        self.hits = self.records = 0

    def update(self, view: View) -> None:
        """Answer from ``view`` from now on; what was kept for environments that are the same stays good."""
        self._view = view
        there = {(), *view.clients.values()}
        self._shelves.keep(lambda names, shelf: names in there and shelf.environments == view.named(names))

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """The answer to ``query`` from the address ``client``; ``stream`` for TCP, where nothing is cut short."""
        if len(query) < _SHORTEST or query[2] & 0x80:
            return Verdict.DROP  # no question: answering answers makes two servers talk for ever
        names = self._view.clients.get(client, ())
        shelf = self._shelves.of(names, lambda: self._view.named(names))
        key = (stream, query[2:])
        if (kept := shelf.get(key)) is not None:
            self.hits += 1
            return query[:2] + kept if kept else Verdict.FORWARD
        made = _made(query, shelf.environments, stream=stream)
        self.records += made.records
        if made.lasting:
            shelf.put(key, b"" if isinstance(made.answer, Verdict) else made.answer[2:])
        return made.answer


class _Made(NamedTuple):
    """An answer, whether it is worth keeping, and the records that it took."""

    answer: bytes | Verdict
    lasting: bool = False
    records: int = 0


def _made(query: bytes, environments: Sequence[Environment], *, stream: bool) -> _Made:
    if query[2] >> 3 & 0xF != dns.opcode.QUERY:
        return _Made(_header_only(query, dns.rcode.NOTIMP))
    if not _is_question(query):
        return _Made(_header_only(query, dns.rcode.FORMERR))
    try:
        question = dns.message.from_wire(query)
    except dns.exception.DNSException:
        return _Made(_header_only(query, dns.rcode.FORMERR))
    asked = question.question[0]
    if question.edns > 0:
        return _Made(_sent(_response(question, dns.rcode.BADVERS), stream=stream))
    if asked.rdclass != _IN or (dns.rdatatype.is_metatype(asked.rdtype) and asked.rdtype != dns.rdatatype.ANY):
        return _Made(_sent(_response(question, dns.rcode.REFUSED), stream=stream))
    response = _respond(question, asked, environments, MOST if stream else MOST_DATAGRAM)
    # Options such as cookies (RFC 7873) are new each time: nobody would ask with the same bytes again.
    lasting = not question.options
    if isinstance(response, Verdict):
        return _Made(response, lasting)
    records = sum(map(len, response.answer)) + sum(map(len, response.additional))
    return _Made(_sent(response, stream=stream), lasting, records)


def _is_question(query: bytes) -> bool:
    """Whether it is one question, written out, with nothing behind it but EDNS; a look at its bytes that costs nothing.

    Nobody who asks has a reason to send records, or to write the one name there is as a reference to somewhere else.
    """
    if len(query) > LONGEST or query[4:10] != b"\0\1\0\0\0\0" or query[10:12] not in {b"\0\0", b"\0\1"}:
        return False
    position = _SHORTEST
    while position < len(query) and 0 < query[position] < 64:
        position += 1 + query[position]
    if query[position : position + 1] != b"\0":
        return False
    behind = query[position + 5 :]
    return behind.startswith(_OPT) if query[11] else not behind


def _respond(
    question: dns.message.Message, asked: dns.rrset.RRset, environments: Sequence[Environment], most: int
) -> dns.message.Message | Verdict:
    found: Found | Unknown
    if asked.rdtype == dns.rdatatype.PTR and (address := _reversed(asked.name)) is not None:
        name = look_back(address, environments)
        if not isinstance(name, Unknown):
            target = _name(name)
            response = _response(question, dns.rcode.NOERROR)
            if target is not None:
                _append(response.answer, asked.name, [_PTR(_IN, asked.rdtype, target)])
            return response if response.answer else _nothing(question, dns.rcode.NOERROR)
        found = name
    else:
        found = look_up(asked.name.to_text(omit_final_dot=True).lower(), environments)
    if found is Unknown.FORWARD:
        return Verdict.FORWARD
    if isinstance(found, Unknown):
        return _nothing(question, dns.rcode.NXDOMAIN)
    response = _response(question, dns.rcode.NOERROR)
    if asked.rdtype in _OWN_TYPES and (found.service is None or asked.rdtype == dns.rdatatype.SRV):
        _fill(response, asked, found, most)
    return response if response.answer else _nothing(question, dns.rcode.NOERROR)


def _fill(response: dns.message.Message, asked: dns.rrset.RRset, found: Found, most: int) -> None:
    for version, kind in _HOSTS:
        # To ANY one kind is enough (RFC 8482 §4.1).
        if asked.rdtype == kind or (asked.rdtype == dns.rdatatype.ANY and not response.answer):
            _append(response.answer, asked.name, _hosts(found.addresses(version), most))
    if asked.rdtype != dns.rdatatype.SRV:
        return
    targets: dict[dns.name.Name, Replica] = {}
    services = []
    for replica, port in _some(found.services(), most):
        target = _name(f"{replica.container}.{found.environment.name}")
        if target is not None:
            targets[target] = replica
            services.append(_SRV(_IN, asked.rdtype, 0, 1, port, target))
    _append(response.answer, asked.name, services)
    for target, replica in targets.items():
        for version, _ in _HOSTS:
            _append(response.additional, target, _hosts((ip for ip in replica.addresses if ip.version == version), most))


def _some(items: Sequence[_T], most: int) -> Sequence[_T]:
    return items if len(items) <= most else random.sample(items, most)


def _hosts(addresses: Iterable[IPAddress], most: int) -> list[dns.rdata.Rdata]:
    return [
        _A(_IN, dns.rdatatype.A, str(ip)) if ip.version == 4 else _AAAA(_IN, dns.rdatatype.AAAA, str(ip))
        for ip in _some(list(dict.fromkeys(addresses)), most)
    ]


def _append(section: list[dns.rrset.RRset], name: dns.name.Name, records: Sequence[dns.rdata.Rdata]) -> None:
    """Dnspython writes the records of one name and kind in another order each time."""
    if records:
        section.append(dns.rrset.from_rdata_list(name, TTL, records))


def _name(text: str) -> dns.name.Name | None:
    """``text`` as a name; ``None`` if DNS has no way to say it: container and environment may be too long together."""
    try:
        return dns.name.from_text(text, origin=dns.name.root, idna_codec=None)
    except (dns.exception.DNSException, UnicodeError):
        return None


def _response(question: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(question, recursion_available=True, our_payload=PAYLOAD, pad=0)
    # "The DO bit of the query MUST be copied" (RFC 3225 §3), also by who signs nothing.
    response.ednsflags |= question.ednsflags & dns.flags.DO
    response.set_rcode(rcode)
    return response


def _nothing(question: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    """Nothing there, and for how long that may be remembered (RFC 2308 §5)."""
    response = _response(question, rcode)
    name = question.question[0].name
    # A name that does not exist has no SOA either: that is its parent's.
    owner = name.parent() if rcode == dns.rcode.NXDOMAIN and name != dns.name.root else name
    response.authority.append(dns.rrset.from_rdata(owner, TTL, _SOA))
    return response


def _sent(response: dns.message.Message, *, stream: bool) -> bytes:
    """The response as bytes; where it does not fit, marked as cut, with as many of the addresses as do fit.

    Who does not ask again over TCP, as musl before 1.2.4, has something to go on with.
    """
    if response.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        response.flags |= dns.flags.AA
    limit = 65535 if stream else max(512, min(response.request_payload or 512, PAYLOAD))
    while True:
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            if response.additional:
                response.additional.clear()  # cutting what was not asked for is not worth a mark (RFC 2181 §9)
                continue
            response.flags |= dns.flags.TC
            if response.answer and len(response.answer[-1]) > 1:
                last = response.answer.pop()
                half = random.sample(list(last), len(last) // 2)
                response.answer.append(dns.rrset.from_rdata_list(last.name, last.ttl, half))
            elif response.answer or response.authority:
                response.answer.clear()
                response.authority.clear()
            else:
                return _header_only(response.to_wire(), response.rcode())


def _header_only(query: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Nothing but the header, for a question that cannot be read: same opcode and RD, QR and RA set."""
    flags = 0x8000 | (int.from_bytes(query[2:4], "big") & 0x7900) | 0x0080 | rcode
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def failure(query: bytes, rcode: dns.rcode.Rcode = dns.rcode.SERVFAIL) -> bytes | None:
    """An answer that says nothing but ``rcode``; ``None`` if the question cannot be read."""
    if not _is_question(query):
        return None
    try:
        return _sent(_response(dns.message.from_wire(query), rcode), stream=False)
    except (dns.exception.DNSException, ValueError):
        return None


def _reversed(name: dns.name.Name) -> IPAddress | None:
    try:
        return ipaddress.ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
