"""A real name server on loopback that knows what a test puts into it, over UDP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.freeport import free_port

SERVFAIL, SILENCE, RUBBISH = "servfail", "silence", "rubbish"
"""Instead of records: how the server fails for a name."""


@dataclass
class Zone:
    """Records by name and type; a name that is not there does not exist. ``asked`` are the names it was asked for."""

    records: dict[str, dict[str, list[str]] | str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def server(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def answer(self, data: bytes, *, datagram: bool) -> bytes | None:
        """What is answered to a query."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(name)
        there = self.records.get(name)
        response = dns.message.make_response(query, recursion_available=True)
        if there == SILENCE:
            return None
        if there == RUBBISH:
            return data[:2] + b"\xff" * 20
        if there == SERVFAIL:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif there is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif isinstance(there, dict):
            self._fill(response, name, kind, there)
        try:
            return response.to_wire(max_size=(query.payload or 512) if datagram else 65535)
        except dns.exception.TooBig:
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC
            return short.to_wire()

    def _fill(self, response: dns.message.Message, name: str, kind: str, there: dict[str, list[str]]) -> None:
        if "CNAME" in there:
            response.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", "CNAME", there["CNAME"]))
            name = there["CNAME"][0].rstrip(".")
            beyond = self.records.get(name, {})
            there = beyond if isinstance(beyond, dict) else {}
        if kind in there:
            response.answer.append(dns.rrset.from_text_list(f"{name}.", 60, "IN", kind, there[kind]))


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self._zone.answer(data, datagram=True)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, address)


@contextlib.asynccontextmanager
async def nameserver(records: dict[str, dict[str, list[str]] | str] | None = None) -> AsyncIterator[Zone]:
    """The server runs as long as the block lasts."""
    zone = Zone(records if records is not None else {}, port=free_port())

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = zone.answer(await reader.readexactly(size), datagram=False)
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(zone), local_addr=zone.server)
    try:
        async with await asyncio.start_server(stream, *zone.server):
            yield zone
    finally:
        transport.close()
