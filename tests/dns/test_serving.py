"""Names of containers, asked for with ``dig`` from several addresses."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace

import dns.message
import pytest

from plugin.resolver.forwarder import Forwarder
from plugin.resolver.limits import Pace, Shares
from plugin.resolver.server import FEW, MADE, PACE, PACE_TOGETHER, RECORD, Resolver
from plugin.resolver.zone import View
from stackpad.errors import Unavailable
from tests.dns.world import (
    BLOG,
    BOUND,
    CLOSED,
    MANY,
    RESOLVER,
    SHOP,
    STRANGER,
    World,
    datagrams,
    free_port,
    needs_ipv6,
    says,
    serving,
    upstream,
    view,
)

TRANSPORTS = pytest.mark.parametrize("transport", ["+notcp", "+tcp"])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as made:
        yield made


@TRANSPORTS
async def test_each_environment_has_its_own(world: World, transport: str) -> None:
    assert await world.short(transport, "web") == ["10.1.0.2"]
    assert await world.short(transport, "web", source=BLOG) == ["10.2.0.2"]
    assert await world.short(transport, "web", source=CLOSED) == ["10.3.0.2"]
    assert await world.short(transport, "WEB.shop-Production", "AAAA") == ["fd00::2"]
    assert await world.short(transport, "-x", "10.1.0.2") == ["db-1.shop-production."]
    assert await world.short(transport, "_x._tcp.web", "SRV") == sorted(["0", "1", "5432", "db-1.shop-production."])


@TRANSPORTS
async def test_a_name_of_others_looks_like_an_unknown_one(world: World, transport: str) -> None:
    async with upstream(world, says("192.0.2.7")):
        for name in ("cms", "cms.blog-production", "nobody", "example.org"):
            assert await world.short(transport, name) == ["192.0.2.7"], name
        assert await world.short(transport, "web", source=STRANGER) == ["192.0.2.7"]
    texts = [await world.dig(transport, "+noall", "+comments", name) for name in ("nobody", "cms")]
    assert ["SERVFAIL" in text for text in texts] == [True, True]


async def test_nothing_of_an_internal_environment_goes_outside(world: World) -> None:
    async with upstream(world, says()) as outside:
        assert "NXDOMAIN" in await world.dig("secret.example.org", source=CLOSED)
        assert not outside.asked


async def test_headers(world: World) -> None:
    text = await world.dig("web", "TXT")
    assert "status: NOERROR" in text
    assert "flags: qr aa rd ra;" in text
    assert "SOA" in text
    assert "WARNING" not in text
    assert "status: NXDOMAIN" in await world.dig("nobody.shop-production")
    assert "status: REFUSED" in await world.dig("version.bind", "TXT", "CH")
    assert "status: NOTIMP" in await world.dig("+opcode=status", "web")
    assert "status: BADVERS" in await world.dig("+edns=1", "+noednsnegotiation", "web")
    assert "failed" in await world.dig("web", "AXFR")


async def test_three_hundred_replicas(world: World) -> None:
    cut = await world.dig("+ignore", "many")
    assert "flags: qr aa tc rd ra;" in cut
    assert cut.count("IN\tA\t") > 30
    assert len(await world.short("many")) == MANY  # dig asks again over TCP
    assert len(await world.short("+noedns", "many")) == MANY


async def test_answers_change_at_once(world: World) -> None:
    assert await world.short("web") == ["10.1.0.2"]
    world.resolver.update(view(web="10.1.0.77"))
    assert await world.short("web") == ["10.1.0.77"]
    assert await world.short("web", source=BLOG) == ["10.2.0.2"]
    world.resolver.update(View())
    assert "SERVFAIL" in await world.dig("web")


async def test_ipv6() -> None:
    needs_ipv6()
    async with serving(["::1", RESOLVER]) as world:
        world.resolver.update(View({"::1": ("shop-production",)}, view().environments))
        assert await world.short("web", source="::1", server="::1") == ["10.1.0.2"]
        assert await world.short("+tcp", "web", source="::1", server="::1") == ["10.1.0.2"]


async def test_answers_come_from_the_address_that_was_asked(world: World) -> None:
    # dig does not take an answer from elsewhere, nor does a connected socket.
    assert (await world.ask("web")).answer[0][0].to_text() == "10.1.0.2"


@pytest.mark.parametrize("address", [RESOLVER, "::1"])
async def test_an_address_somebody_has(address: str) -> None:
    needs_ipv6()
    port = free_port(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((address, port))
        with pytest.raises(ExceptionGroup) as raised:
            await Resolver([address], Forwarder(list), port).run()
    (error,) = raised.value.exceptions
    assert isinstance(error, Unavailable)
    assert f"{address} port {port}" in str(error)


async def test_an_address_that_is_not_there_yet() -> None:
    needs_ipv6()
    for address in ("192.0.2.53", "2001:db8::53"):
        port = free_port("127.0.0.1")
        resolver = Resolver([address], Forwarder(list), port)
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(resolver.run())
            await resolver.serving.wait()
            task.cancel()


async def test_junk_by_datagram(world: World) -> None:
    async with datagrams(SHOP, (RESOLVER, world.port)) as client:
        client.transport.sendto(b"\x12\x34" + bytes(9))
        client.transport.sendto(b"\x12\x35\x80" + bytes(20))
        client.transport.sendto(b"\x12\x36\x01\0\0\1" + b"\xff" * 30)
        error = await client.receive()  # the first two get no answer
        assert (error[:2], error[3] & 0xF) == (b"\x12\x36", 1)
    assert world.resolver.counts.dropped == 2


async def test_who_asks_without_end_starves_nobody(world: World) -> None:
    """More than anybody's share from one address; of another's questions none is lost."""
    flood = dns.message.make_query("web", "A").to_wire()
    async with datagrams(SHOP, (RESOLVER, world.port)) as client:
        for number in range(3 * PACE // 100):
            for _ in range(100):
                client.transport.sendto(flood)
            if number % 20 == 0:
                assert (await world.ask("web", source=BLOG)).answer
            await asyncio.sleep(0)
    assert (await world.ask("web", source=BLOG)).answer


async def test_who_has_used_up_its_share_is_not_answered(world: World) -> None:
    world.resolver.pace.spend(SHOP, 3 * PACE)
    assert world.resolver.exhausted(SHOP)
    async with datagrams(SHOP, (RESOLVER, world.port)) as client:
        client.transport.sendto(dns.message.make_query("web", "A").to_wire())
        assert (await world.ask("web", source=BLOG)).answer
        assert client.received.empty()
    assert await world.short("+tcp", "web") == ["10.1.0.2"]  # a stream only waits


async def test_a_long_answer_has_its_price(world: World) -> None:
    each, together = Pace(PACE, PACE, lambda: 0.0), Pace(PACE, PACE, lambda: 0.0)
    world.resolver.pace = Shares(each, together, world.resolver.group)
    for name, records in (("web", 1), ("many", 100)):
        before = each._level(SHOP)
        assert (await world.ask(name)).answer
        assert before - each._level(SHOP) == MADE + RECORD * max(0, records - FEW)
        assert together._level("shop-production") == each._level(SHOP)


async def test_many_of_one_environment_have_one_share(world: World) -> None:
    """Askers who have used up nothing themselves wait for those whom they are with; others, and strangers, do not."""
    world.resolver.pace = Shares(
        Pace(PACE, PACE, lambda: 0.0), Pace(PACE_TOGETHER, PACE_TOGETHER, lambda: 0.0), world.resolver.group
    )
    there = view()
    others = [f"127.53.1.{number}" for number in range(2, 6)]
    world.resolver.update(replace(there, clients={**there.clients, **dict.fromkeys(others, ("shop-production",))}))
    for other in others[1:]:
        world.resolver.pace.spend(other, PACE - 1)
    assert world.resolver.exhausted(others[0])
    assert not world.resolver.exhausted(BLOG)
    for number in range(3):
        world.resolver.pace.spend(f"127.53.9.{number}", PACE - 1)
    assert world.resolver.exhausted(STRANGER)
    assert not world.resolver.exhausted(BLOG)


async def test_an_answer_that_cannot_be_sent_is_dropped(world: World) -> None:
    """A port that nobody may send to: the next question is answered all the same."""
    dropped = world.resolver.counts.dropped
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as wire:
        query = dns.message.make_query("web", "A").to_wire()
        wire.bind((SHOP, 0))
        wire.sendto(struct.pack(">HHHH", 0, world.port, 8 + len(query), 0) + query, (RESOLVER, 0))
    assert (await world.ask("web")).answer
    assert world.resolver.counts.dropped == dropped + 1
