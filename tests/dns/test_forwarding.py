"""Everything else: servers that are down, slow, wrong or lying, and a real one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from plugin.resolver import forwarder
from plugin.resolver.forwarder import Forwarder
from plugin.resolver.hostservers import AGAIN, HostServers
from plugin.resolver.server import PENDING, PENDING_EACH, Resolver
from plugin.resolver.zone import View
from tests.dns.world import (
    BLOG,
    BOUND,
    RESOLVER,
    SHOP,
    STRANGER,
    UPSTREAMS,
    World,
    answer,
    datagrams,
    dnsmasq,
    fails,
    free_port,
    running,
    says,
    serving,
    silent,
    upstream,
    view,
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with serving() as made:
        yield made


async def test_the_question_is_passed_on_as_it_is(world: World) -> None:
    async with upstream(world, says()) as server:
        text = await world.dig("+dnssec", "+cd", "wWw.Example.ORG")
        assert "192.0.2.1" in text
        assert "wWw.Example.ORG." in text
        (asked,) = server.asked
    assert asked.question[0].name.to_text() == "wWw.Example.ORG."
    assert asked.flags & dns.flags.CD
    assert asked.ednsflags & dns.flags.DO


async def test_identifiers_and_ports_are_not_to_be_guessed(world: World) -> None:
    async with upstream(world, says()) as server:
        query = dns.message.make_query("example.org", "A", id=1)
        async with datagrams(STRANGER, (RESOLVER, world.port)) as client:
            for _ in range(20):
                client.transport.sendto(query.to_wire())
                assert (await client.receive())[:2] == b"\0\1"
        assert len({asked.id for asked in server.asked}) > 15
        assert len({port for _, port in server.addresses}) > 15


async def test_a_spelling_the_server_lost_is_put_back(world: World) -> None:
    async def lower(query: dns.message.Message) -> Sequence[bytes]:
        wire = answer(query).to_wire()
        return [wire[:12] + wire[12:].replace(b"ExAmPlE", b"example")]

    async with upstream(world, lower):
        assert (await world.ask("ExAmPlE.org")).question[0].name.to_text() == "ExAmPlE.org."


async def test_no_servers(world: World) -> None:
    response = await world.ask("example.org")
    assert response.rcode() == dns.rcode.SERVFAIL
    assert response.question


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_a_server_that_is_down(world: World, transport: str) -> None:
    world.upstreams.append(UPSTREAMS[2])  # nobody listens there
    async with upstream(world, says()):
        assert await world.short(transport, "example.org") == ["192.0.2.1"]
    assert "SERVFAIL" in await world.dig(transport, "example.org")
    assert world.resolver.counts.failed == 1


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_a_server_that_says_nothing_is_asked_last_from_then_on(world: World, transport: str) -> None:
    async with upstream(world, silent) as mute, upstream(world, says(), UPSTREAMS[1]) as other:
        for _ in range(5):
            assert await world.short(transport, "example.org") == ["192.0.2.1"]
        assert 1 <= len(mute.asked) < 5 <= len(other.asked)


async def test_servers_that_all_say_nothing(world: World) -> None:
    async with upstream(world, silent) as one, upstream(world, silent, UPSTREAMS[1]) as other:
        assert "SERVFAIL" in await world.dig("example.org")
        assert len(one.asked) >= 1
        assert len(other.asked) >= 1
    assert world.forwarder.failures == 1


async def test_a_lost_question_is_asked_again(world: World) -> None:
    heard = []

    async def second(query: dns.message.Message) -> Sequence[bytes]:
        heard.append(query)
        return [answer(query).to_wire()] if len(heard) > 1 else []

    async with upstream(world, second):
        assert await world.short("example.org") == ["192.0.2.1"]


async def test_a_slow_server_is_still_listened_to(world: World) -> None:
    """The only one who knows takes longer than we wait before we ask the next."""

    async def slow(query: dns.message.Message) -> Sequence[bytes]:
        await asyncio.sleep(1.5)
        return [answer(query).to_wire()]

    async with upstream(world, slow), upstream(world, silent, UPSTREAMS[1]):
        assert await world.short("example.org") == ["192.0.2.1"]


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
async def test_a_server_that_fails_is_no_answer_while_there_is_another(world: World, rcode: dns.rcode.Rcode) -> None:
    async with upstream(world, fails(rcode)) as broken:
        assert f"status: {rcode.name}" in await world.dig("example.org")
        async with upstream(world, says(), UPSTREAMS[1]):
            assert await world.short("example.org") == ["192.0.2.1"]
            assert await world.short("example.org") == ["192.0.2.1"]
        assert len(broken.asked) <= 2


async def test_no_such_name_is_an_answer(world: World) -> None:
    async with upstream(world, fails(dns.rcode.NXDOMAIN)), upstream(world, says(), UPSTREAMS[1]) as other:
        assert "status: NXDOMAIN" in await world.dig("example.org")
        assert not other.asked


def _lies(query: dns.message.Message) -> list[bytes]:
    """Answers that are to be left aside, all with an address that must not be believed."""
    good = answer(query, "203.0.113.66")
    wrong_id = good.to_wire()
    other = dns.message.make_query("evil.example", "A", id=query.id)
    aaaa = dns.message.make_query(query.question[0].name, "AAAA", id=query.id)
    again = answer(query, "203.0.113.66")
    again.question *= 2
    return [
        bytes([wrong_id[0] ^ 0xFF]) + wrong_id[1:],
        answer(other, "203.0.113.66").to_wire(),
        answer(aaaa, "203.0.113.66").to_wire(),
        wrong_id[:2] + bytes([wrong_id[2] & 0x7F]) + wrong_id[3:],  # not an answer
        again.to_wire(),
        wrong_id[:12],
        wrong_id[:2],
        b"",
    ]


@pytest.mark.parametrize("number", range(8))
async def test_lies_are_left_aside(world: World, number: int) -> None:
    async def liar(query: dns.message.Message) -> Sequence[bytes]:
        return [_lies(query)[number], answer(query).to_wire()]

    async with upstream(world, liar):
        assert await world.short("example.org") == ["192.0.2.1"]


@pytest.mark.parametrize("number", range(8))
async def test_a_liar_over_tcp_is_no_server(world: World, number: int) -> None:
    async def liar(query: dns.message.Message) -> Sequence[bytes]:
        return [_lies(query)[number]]

    async with upstream(world, liar), upstream(world, says(), UPSTREAMS[1]):
        assert await world.short("+tcp", "example.org") == ["192.0.2.1"]


async def test_answers_from_elsewhere_are_not_heard(world: World) -> None:
    """Somebody else answers first, to the right port, with the right identifier."""

    async def behaviour(query: dns.message.Message) -> Sequence[bytes]:
        forger, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=(UPSTREAMS[1], 0)
        )
        for address in server.addresses:
            forger.sendto(answer(query, "203.0.113.66").to_wire(), address)
        forger.close()
        await asyncio.sleep(0.2)
        return [answer(query).to_wire()]

    async with upstream(world, behaviour) as server:
        assert await world.short("example.org") == ["192.0.2.1"]


async def test_a_cut_answer_is_fetched_over_tcp(world: World) -> None:
    async def big(query: dns.message.Message) -> Sequence[bytes]:
        if len(server.asked) == 1:
            cut = dns.message.make_response(query)
            cut.flags |= dns.flags.TC
            return [cut.to_wire()]
        return [answer(query, count=200).to_wire(max_size=65535)]

    async with upstream(world, big) as server:
        assert len(await world.short("example.org")) == 200


async def test_a_question_that_points_into_its_own_header(world: World) -> None:
    """Readable, but not as any server writes it back: no answer, and nothing else suffers."""
    async with upstream(world, says()):
        async with datagrams(SHOP, (RESOLVER, world.port)) as client:
            client.transport.sendto(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + b"\3abc\xc0\6" + b"\0\1\0\1")
            assert (await client.receive())[:2] == b"\x12\x34"
        assert await world.short("example.org") == ["192.0.2.1"]


async def test_nobody_takes_all_the_forwarding(world: World) -> None:
    async with upstream(world, silent), datagrams(SHOP, (RESOLVER, world.port)) as client:
        for number in range(PENDING_EACH + 10):
            client.transport.sendto(dns.message.make_query(f"n{number}.example.org", "A").to_wire())
        refused = [dns.message.from_wire(await client.receive()) for _ in range(10)]
        assert {response.rcode() for response in refused} == {dns.rcode.REFUSED}
        assert (await world.ask("web")).answer  # its own environment's names do not suffer
        async with upstream(world, says(), UPSTREAMS[1]):
            assert (await world.ask("example.org", source=BLOG)).answer
        rest = [dns.message.from_wire(await client.receive()) for _ in range(PENDING_EACH)]
        assert {response.rcode() for response in rest} <= {dns.rcode.SERVFAIL, dns.rcode.NOERROR}


async def test_no_environment_takes_all_the_forwarding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "IN_ALL", BOUND)
    there = view()
    askers = [f"127.53.1.{number}" for number in range(1, 1 + PENDING // PENDING_EACH)]
    world.resolver.update(replace(there, clients={**there.clients, **dict.fromkeys(askers, ("shop-production",))}))
    async with upstream(world, silent), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(datagrams(asker, (RESOLVER, world.port))) for asker in askers]
        for number in range(PENDING_EACH):
            for client in clients:
                client.transport.sendto(dns.message.make_query(f"n{number}.example.org", "A").to_wire())
            await asyncio.sleep(0.01)
        assert (await world.ask("web")).answer  # after all of those
        assert world.resolver.counts.refused
        assert world.resolver._pending.total <= PENDING // 2
        async with upstream(world, says(), UPSTREAMS[1]):
            assert (await world.ask("example.org", source=BLOG)).answer


async def test_a_real_server(world: World, tmp_path: Path) -> None:
    options = ["--host-record=www.example.org,192.0.2.10,2001:db8::10", "--txt-record=example.org,hello"]
    options += [f"--host-record=many.example.org,192.0.2.{n}" for n in range(200)]
    options += ["--local=/example.org/", "--srv-host=_http._tcp.example.org,www.example.org,80"]
    async with dnsmasq(UPSTREAMS[0], world.port, tmp_path, *options):
        world.upstreams.append(UPSTREAMS[0])
        assert await world.short("www.example.org") == ["192.0.2.10"]
        assert await world.short("www.example.org", "AAAA") == ["2001:db8::10"]
        assert await world.short("example.org", "TXT") == ['"hello"']
        assert await world.short("-x", "192.0.2.10") == ["www.example.org."]
        assert "0 0 80 www.example.org." in await world.dig("_http._tcp.example.org", "SRV")
        assert "NXDOMAIN" in await world.dig("nobody.example.org")
        assert "NOERROR" in await world.dig("www.example.org", "MX")
        assert len(await world.short("many.example.org")) == 200
        assert len(await world.short("+tcp", "many.example.org")) == 200
        assert await world.short("web") == ["10.1.0.2"]


async def test_the_hosts_servers_change(tmp_path: Path) -> None:
    port = free_port(RESOLVER, *UPSTREAMS)
    conf = tmp_path / "resolv.conf"
    conf.write_text(f"nameserver {UPSTREAMS[0]}\n")
    resolver = Resolver([RESOLVER], Forwarder(HostServers(tmp_path / "run", conf), port), port)
    resolver.update(View())
    world = World(port, resolver, Forwarder(list))
    async with running(resolver), upstream(world, says("192.0.2.1")), upstream(world, says("192.0.2.2"), UPSTREAMS[1]):
        assert await world.short("example.org") == ["192.0.2.1"]
        conf.write_text(f"nameserver {UPSTREAMS[1]}\n")
        await asyncio.sleep(AGAIN + 0.1)
        assert await world.short("example.org") == ["192.0.2.2"]
