"""DNS messages: a question's bytes in, an answer's bytes out, or the word that it is to be forwarded.

Pure. dnspython reads and writes (RFC 1035; EDNS: RFC 6891; minimal answers to ANY: RFC 8482), which costs a fifth of a
millisecond; a bounded cache of finished answers, by environments and question, spares most of that.
"""

from __future__ import annotations

import ipaddress
import random
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum

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
from plugin.resolver.zone import Environment, Found, Unknown, View, look_back, look_up

TTL = 5
"""Seconds an answer may be kept, also one that says there is nothing."""

PAYLOAD = 1232
"""Bytes of a UDP answer that no path fragments (DNS flag day 2020); less if the asker says so."""

CACHED, VARIANTS = 4096, 4
"""Answers kept, and orders of the same addresses among them."""

_SHORTEST = 12
_OWN_TYPES = {dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV, dns.rdatatype.ANY}


class Verdict(Enum):
    """What to do with a question that has no answer here."""

    FORWARD = "forward"
    DROP = "drop"


class Answerer:
    """Answers questions from one view; a new view begins with an empty cache."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._cache: OrderedDict[tuple[Sequence[str], bool, bytes], list[bytes]] = OrderedDict()
        self.hits = 0

    def knows(self, client: str) -> bool:
        """Whether the address is that of a container of ours."""
        return client in self._view.clients

    def answer(self, query: bytes, client: str, *, stream: bool = False) -> bytes | Verdict:
        """The answer to ``query`` from the address ``client``; ``stream`` for TCP, where nothing is cut short."""
        if len(query) < _SHORTEST or query[2] & 0x80:
            return Verdict.DROP  # no question: answering answers makes two servers talk for ever
        key = (self._view.clients.get(client, ()), stream, query[2:])
        kept = self._cache.get(key)
        if kept is not None and (len(kept) == VARIANTS or (len(kept) == 1 and not _varies(kept[0]))):
            self.hits += 1
            self._cache.move_to_end(key)
            return query[:2] + random.choice(kept)  # noqa: S311 - spreads load, guards nothing
        made = self._make(query, client, stream=stream)
        if isinstance(made, bytes):
            self._cache.setdefault(key, []).append(made[2:])
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return made

    def _make(self, query: bytes, client: str, *, stream: bool) -> bytes | Verdict:
        try:
            question = dns.message.from_wire(query)
        except dns.exception.DNSException:
            return _format_error(query)
        if question.edns > 0:
            return _send(_response(question, dns.rcode.BADVERS), stream=stream)
        if question.opcode() != dns.opcode.QUERY:
            return _send(_response(question, dns.rcode.NOTIMP), stream=stream)
        if len(question.question) != 1:
            return _send(_response(question, dns.rcode.FORMERR), stream=stream)
        asked = question.question[0]
        if asked.rdclass != dns.rdataclass.IN or asked.rdtype in {dns.rdatatype.AXFR, dns.rdatatype.IXFR}:
            return _send(_response(question, dns.rcode.REFUSED), stream=stream)
        response = self._respond(question, self._view.of(client))
        return response if isinstance(response, Verdict) else _send(response, stream=stream)

    def _respond(
        self, question: dns.message.Message, environments: Sequence[Environment]
    ) -> dns.message.Message | Verdict:
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        if asked.rdtype == dns.rdatatype.PTR and (address := _reversed(asked.name)) is not None:
            found_name = look_back(address, environments)
            if found_name is Unknown.FORWARD:
                return Verdict.FORWARD
            if isinstance(found_name, Unknown):
                return _negative(question, dns.rcode.NXDOMAIN)
            response = _response(question, dns.rcode.NOERROR)
            response.answer.append(dns.rrset.from_text(asked.name, TTL, "IN", "PTR", f"{found_name}."))
            return response
        found = look_up(name, environments)
        if found is Unknown.FORWARD:
            return Verdict.FORWARD
        if isinstance(found, Unknown):
            return _negative(question, dns.rcode.NXDOMAIN)
        response = _response(question, dns.rcode.NOERROR)
        if asked.rdtype in _OWN_TYPES and (found.service is None or asked.rdtype == dns.rdatatype.SRV):
            _fill(response, asked, found)
        return response if response.answer else _negative(question, dns.rcode.NOERROR)


def _fill(response: dns.message.Message, asked: dns.rrset.RRset, found: Found) -> None:
    for version, kind in ((4, dns.rdatatype.A), (6, dns.rdatatype.AAAA)):
        # To ANY one kind is enough (RFC 8482 §4.1).
        if asked.rdtype == kind or (asked.rdtype == dns.rdatatype.ANY and not response.answer):
            _append(response.answer, asked.name, kind, [str(ip) for ip in found.addresses(version)])
    if asked.rdtype != dns.rdatatype.SRV:
        return
    targets = {}
    lines = []
    for replica, port in found.services():
        target = dns.name.from_text(f"{replica.container}.{found.environment.name}.")
        targets[target] = replica
        lines.append(f"0 1 {port} {target}")
    _append(response.answer, asked.name, dns.rdatatype.SRV, lines)
    for target, replica in targets.items():
        for version, kind in ((4, dns.rdatatype.A), (6, dns.rdatatype.AAAA)):
            _append(response.additional, target, kind, [str(ip) for ip in replica.addresses if ip.version == version])


def _append(section: list[dns.rrset.RRset], name: dns.name.Name, kind: dns.rdatatype.RdataType, texts: list[str]) -> None:
    if texts:
        random.shuffle(texts)
        records = [dns.rdata.from_text(dns.rdataclass.IN, kind, text) for text in dict.fromkeys(texts)]
        section.append(dns.rrset.from_rdata_list(name, TTL, records))


def _response(question: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(question, recursion_available=True, our_payload=PAYLOAD)
    response.set_rcode(rcode)
    return response


def _negative(question: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    """Nothing there, and for how long that may be remembered (RFC 2308 §5)."""
    response = _response(question, rcode)
    soa = f"resolver.stackpad. nobody.stackpad. 1 3600 600 86400 {TTL}"
    response.authority.append(dns.rrset.from_text(question.question[0].name, TTL, "IN", "SOA", soa))
    return response


def _send(response: dns.message.Message, *, stream: bool) -> bytes:
    limit = 65535 if stream else max(512, min(response.request_payload or 512, PAYLOAD))
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        for section in (response.answer, response.authority, response.additional):
            section.clear()
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=limit)


def _format_error(query: bytes) -> bytes:
    """FORMERR with nothing but the header, for a question that cannot be read."""
    flags = 0x8000 | (int.from_bytes(query[2:4], "big") & 0x7900) | 0x0080 | dns.rcode.FORMERR
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def failure(query: bytes, rcode: dns.rcode.Rcode = dns.rcode.SERVFAIL) -> bytes | None:
    """An answer that says nothing but ``rcode``; ``None`` if the question cannot be read."""
    try:
        return _response(dns.message.from_wire(query), rcode).to_wire()
    except (dns.exception.DNSException, ValueError):
        return None


def _varies(answer: bytes) -> bool:
    """Whether there is more than one record, whose order another answer would change (ANCOUNT without the id)."""
    return int.from_bytes(answer[4:6], "big") > 1


def _reversed(name: dns.name.Name) -> IPAddress | None:
    try:
        return ipaddress.ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
