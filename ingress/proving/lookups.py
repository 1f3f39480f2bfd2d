"""Asks the outside about a domain: its TXT records, its addresses, and what it answers over HTTP.

Whatever is out there is a stranger's: every answer is small or cut off, every wait is short, no redirect is followed and
no other port is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver
import dns.reversename
from aiohttp.abc import AbstractResolver, ResolveResult

from ingress.owners import proof
from stackpad.errors import StackpadError, shown

PATIENCE = 5.0
"""Seconds for each question; a name server is asked more than once in that time."""

MOST_RECORDS, MOST_BODY = 100, 64
"""TXT records that are looked at, and bytes of an answer over HTTP: it is a digest in hexadecimal."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Server = tuple[str, int]


class Absent(StackpadError):
    """What was looked for is not there; the text says what is instead."""


def is_anybodys(address: Address) -> bool:
    """Whether others can mean the same machine by ``address`` as we do."""
    real = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped else address
    return not (real.is_loopback or real.is_link_local or real.is_multicast or real.is_unspecified or real.is_reserved)


class Lookups:
    """Asks ``servers``, or those of the machine; HTTP at ``port`` of addresses that are ``fit``."""

    def __init__(
        self,
        servers: Sequence[Server],
        port: int,
        fit: Callable[[Address], bool] = is_anybodys,
        patience: float = PATIENCE,
    ) -> None:
        self._servers, self._port, self._fit, self._patience = servers, port, fit, patience

    async def texts(self, name: str) -> list[str]:
        """The TXT records at ``name``, each as one string; raises :class:`Absent`."""
        answer = await self._resolve(name, "TXT")
        records = [b"".join(record.strings) for record in list(answer)[:MOST_RECORDS]]
        return [record.decode("ascii", "replace") for record in records]

    async def addresses(self, domain: str) -> list[str]:
        """Where ``domain`` points, as far as it is any use; raises :class:`Absent`."""
        found: list[str] = []
        reasons: list[str] = []
        for kind in ("A", "AAAA"):
            try:
                found += [str(record.address) for record in list(await self._resolve(domain, kind))[:8]]
            except Absent as error:
                reasons.append(str(error))
        if not found:
            raise Absent(reasons[0])
        fit = [address for address in found if self._fit(ipaddress.ip_address(address))]
        if not fit:
            raise Absent(f"{domain} points to {found[0]}, which is another machine for everybody")
        return fit

    async def names(self, domain: str) -> list[str]:
        """What the addresses that ``domain`` points to are called in DNS, as far as they are called anything."""
        found: list[str] = []
        for address in await self.addresses(domain):
            with contextlib.suppress(Absent):
                answer = await self._resolve(dns.reversename.from_address(address).to_text(omit_final_dot=True), "PTR")
                found += [record.target.to_text(omit_final_dot=True).lower() for record in list(answer)[:MOST_RECORDS]]
        return found

    async def fetch(self, domain: str, nonce: str) -> str:
        """What ``domain`` answers for ``nonce``; raises :class:`Absent`."""
        addresses = await self.addresses(domain)
        port = "" if self._port == 80 else f":{self._port}"
        url = f"http://{domain}{port}{proof.PATH}{nonce}"
        connector = aiohttp.TCPConnector(resolver=_Known(addresses), use_dns_cache=False, force_close=True)
        where = f"{domain} ({addresses[0]})"
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(self._patience),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise Absent(f"{where} answers with {response.status} instead of our number")
                body = await _some(response.content)
        except TimeoutError as error:
            raise Absent(f"{where} has not answered within {self._patience:.0f} seconds") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Absent(f"{where} does not answer at port {self._port}: {type(error).__name__}") from error
        return body.decode("ascii", "replace")

    async def _resolve(self, name: str, kind: str) -> Any:
        try:
            # Made anew each time, since the machine's own servers change while we run.
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in self._servers]
            resolver.use_edns(0, 0, 1232)
            return await resolver.resolve(f"{name}.", kind, lifetime=self._patience, search=False)
        except dns.resolver.NXDOMAIN as error:
            raise Absent(f"there is no {name} in DNS") from error
        except dns.resolver.NoAnswer as error:
            raise Absent(f"{name} has no {kind} record") from error
        except dns.resolver.NoNameservers as error:
            # Its own words are one long line about each server, and hide that the name may well be there.
            raise Absent(f"{name} cannot be looked up: the name servers refuse, or fail for it") from error
        except dns.exception.Timeout as error:
            raise Absent(f"no name server has answered for {name} within {self._patience:.0f} seconds") from error
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise Absent(f"{name} cannot be looked up: {type(error).__name__} {shown(str(error))}") from error


async def _some(content: aiohttp.StreamReader) -> bytes:
    """The body, if it is not longer than one of ours; of others the beginning, and something after it."""
    body = b""
    while len(body) <= MOST_BODY and (part := await content.read(MOST_BODY + 1 - len(body))):
        body += part
    return body


class _Known(AbstractResolver):
    """Knows already: what is asked for is not looked up a second time, with another answer perhaps."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        await asyncio.sleep(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address in self._addresses
            for kind in [socket.AF_INET6 if ":" in address else socket.AF_INET]
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Nothing to close."""
