"""What the outside answers about a domain: a real name server and real web servers, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from ingress.proving.lookups import MOST_BODY, MOST_RECORDS, Absent, Lookups, is_anybodys
from tests.freeport import free_port
from tests.nameserver import RUBBISH, SERVFAIL, SILENCE, Zone, nameserver

NAME = "_stackpad.www.example.org"
NONCE = "0" * 32


def anywhere(_: object) -> bool:
    return True


@contextlib.asynccontextmanager
async def asking(
    records: dict[str, dict[str, list[str]] | str], port: int = 80, *, patience: float = 60.0
) -> AsyncIterator[tuple[Lookups, Zone]]:
    """Who asks a name server with these records; short of ``patience`` only where no answer is what is waited for."""
    async with nameserver(records) as zone:
        yield Lookups([zone.server], port, anywhere, patience), zone


LONG = "".join(f'"{n:0255}" ' for n in range(200))


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"TXT": ['"stackpad-verify=abc"']}, ["stackpad-verify=abc"]),
        ({"TXT": ['"v=spf1 -all"', '"stackpad-verify=abc"']}, ["v=spf1 -all", "stackpad-verify=abc"]),
        ({"TXT": ['"stackpad-" "verify=abc"']}, ["stackpad-verify=abc"]),
        ({"TXT": ['"\\255\\000"']}, ["\ufffd\x00"]),
    ],
)
async def test_records_as_they_are(there: dict[str, list[str]], found: list[str]) -> None:
    async with asking({NAME: there}) as (lookups, _):
        assert sorted(await lookups.texts(NAME)) == sorted(found)


async def test_a_record_may_be_elsewhere() -> None:
    records: dict[str, dict[str, list[str]] | str] = {
        NAME: {"CNAME": ["proof.elsewhere.example."]},
        "proof.elsewhere.example": {"TXT": ['"here"']},
    }
    async with asking(records) as (lookups, _):
        assert await lookups.texts(NAME) == ["here"]


async def test_very_many_and_very_long_records_are_read_up_to_a_bound() -> None:
    async with asking({NAME: {"TXT": [LONG]}}) as (lookups, zone):
        (text,) = await lookups.texts(NAME)
        assert len(text) == 200 * 255
        assert len(zone.asked) == 2, "again over TCP"
    async with asking({NAME: {"TXT": [f'"{n}"' for n in range(2000)]}}) as (lookups, _):
        assert len(await lookups.texts(NAME)) == MOST_RECORDS


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (None, "there is no _stackpad.www.example.org in DNS"),
        ({"A": ["192.0.2.1"]}, "_stackpad.www.example.org has no TXT record"),
        ({"CNAME": ["gone.example."]}, "_stackpad.www.example.org has no TXT record"),
        (SERVFAIL, "_stackpad.www.example.org cannot be looked up: the name servers refuse, or fail for it"),
        (SILENCE, "no name server has answered for _stackpad.www.example.org within 2 seconds"),
        (RUBBISH, "no name server has answered for _stackpad.www.example.org within 2 seconds"),
    ],
)
async def test_what_is_not_there_is_told(there: dict[str, list[str]] | str | None, words: str) -> None:
    patience = 2.0 if there in (SILENCE, RUBBISH) else 60.0
    async with asking({} if there is None else {NAME: there}, patience=patience) as (lookups, _):
        with pytest.raises(Absent) as caught:
            await lookups.texts(NAME)
        assert words in str(caught.value)
        assert str(caught.value).isprintable()


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(Absent, match=r"no name server has answered|cannot be looked up"):
        await Lookups([("127.0.0.1", free_port())], 80, patience=0.5).texts(NAME)


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("192.168.1.1", True),
        ("8.8.8.8", True),
        ("2001:4860::1", True),
        ("fd00::1", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("255.255.255.255", False),
    ],
)
def test_addresses_that_are_another_machine_for_everybody(address: str, good: bool) -> None:
    assert is_anybodys(ipaddress.ip_address(address)) is good


async def test_a_domain_that_points_to_everybodys_own_machine_is_not_asked() -> None:
    """It would be us, whoever's it is."""
    async with nameserver({"www.example.org": {"A": ["127.0.0.1"]}}) as zone, served(_says(b"x")) as port:
        with pytest.raises(Absent, match=r"points to 127\.0\.0\.1, which is another machine for everybody"):
            await Lookups([zone.server], port).fetch("www.example.org", NONCE)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _says(body: bytes, status: int = 200, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return handler


@contextlib.asynccontextmanager
async def served(handler: Handler, asked: list[str] | None = None) -> AsyncIterator[int]:
    async def noting(request: web.Request) -> web.StreamResponse:
        if asked is not None:
            asked.append(f"{request.host} {request.path}")
        return await handler(request)

    port = free_port()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", noting)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield port
    finally:
        await runner.cleanup()


HERE: dict[str, dict[str, list[str]] | str] = {"www.example.org": {"A": ["127.0.0.1"]}}


async def test_it_is_asked_by_its_name_at_our_path_once() -> None:
    asked: list[str] = []
    async with served(_says(b"number"), asked) as port, asking(HERE, port) as (lookups, _):
        assert await lookups.fetch("www.example.org", NONCE) == "number"
    assert asked == [f"www.example.org:{port} /.well-known/stackpad/{NONCE}"]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 404, 500])
async def test_nothing_but_200_counts_and_nobody_is_followed(status: int) -> None:
    asked: list[str] = []
    async with served(_says(b"number"), asked) as elsewhere:
        location = f"http://127.0.0.1:{elsewhere}/"
        async with served(_says(b"number", status, Location=location)) as port, asking(HERE, port) as (lookups, _):
            with pytest.raises(Absent, match=f"answers with {status} instead of our number"):
                await lookups.fetch("www.example.org", NONCE)
    assert asked == []


async def test_an_endless_answer_is_cut_off() -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65536)
        ended.set()
        return response

    async with served(endless) as port, asking(HERE, port) as (lookups, _):
        assert await lookups.fetch("www.example.org", NONCE) == "x" * (MOST_BODY + 1)
        await asyncio.wait_for(ended.wait(), 30)


async def test_what_is_packed_is_not_unpacked() -> None:
    body = gzip.compress(b"x" * 10_000_000)
    packed = {"Content-Encoding": "gzip"}
    async with served(_says(body, 200, **packed)) as port, asking(HERE, port) as (lookups, _):
        assert len(await lookups.fetch("www.example.org", NONCE)) <= MOST_BODY + 1


async def test_who_does_not_answer_is_not_waited_for() -> None:
    async def silent(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async with served(silent) as port, asking(HERE, port, patience=2.0) as (lookups, _):
        with pytest.raises(Absent, match="has not answered within 2 seconds"):
            await lookups.fetch("www.example.org", NONCE)
    async with asking(HERE, free_port()) as (lookups, _):
        with pytest.raises(Absent, match="does not answer at port"):
            await lookups.fetch("www.example.org", NONCE)


@pytest.mark.parametrize("text", [b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, b""])
async def test_what_is_no_http(text: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(text)
            await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(babble, "127.0.0.1", port), asking(HERE, port) as (lookups, _):
        with pytest.raises(Absent, match="does not answer at port"):
            await lookups.fetch("www.example.org", NONCE)
