"""The whole plugin, and whoever has a token of it: what is said to the join service costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path

import aiohttp
import pytest

from plugin.cluster import door
from plugin.joining import tokens
from plugin.store.mesh import JOIN_PORT
from stackpad import jsontext, records
from stackpad.etcd import Etcd
from tests.fuzz.guests import HALVES, LINK, ODD, WRONG, Answer, Guest, invited, requests
from tests.fuzz.process import ADMIN, Census, Process, plugin
from tests.fuzz.sandbox import sentence
from tests.fuzz.test_process import begin, grown, steady
from tests.netns import eventually, ip

TIMES = int(os.environ.get("STACKPAD_FUZZ") or 1)
ROUND = int(os.environ.get("STACKPAD_FUZZ_ROUND") or 0)
GUESTS, SAID = 8, 40 * TIMES
"""So many guests, and what each says: more than one may at once."""

PLACES = (records.NODES, records.RANGES, records.REMOVED, records.RANGES_LOCK)

_MISSING = [name for name in ("nft", "ip", "etcd", "unshare") if shutil.which(name) is None]
pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}")]


def fits(answer: Answer) -> bool:
    """Whether something was answered; fails if that is not what is documented."""
    status, body = answer
    assert status in {0, 200, 503} or 400 <= status < 500, answer
    if status >= 400 and body.startswith(b"{"):
        sentence(json.loads(body)["error"])
    assert status != 503 or body.startswith(b"{")
    return status > 0


async def places(process: Process) -> dict[str, bytes]:
    """What the store has of nodes and ranges."""
    async with Etcd([f"unix://{process.run}/stackpad/etcd/client:0"]) as etcd:
        listing = await etcd.list(records.ROOT)
        return {kv.key: kv.value for kv in listing.items if kv.key.startswith(PLACES)}


async def enters(guest: Guest) -> str:
    """The id of the node that a guest becomes."""
    status, body = await guest.join()
    assert status == 200, body
    return tokens.check(jsontext.decode(body, type=tokens.JoinAnswer)).node


async def hold(guest: Guest, said: bytes, readers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Begin something, and never end it."""
    with contextlib.suppress(ConnectionError):
        reader, writer = await guest.connect()
        writer.write(said)
        readers.append((reader, writer))


async def released(process: Process, admin: aiohttp.ClientSession, before: Census) -> None:
    """Fail unless all that was begun has ended; connections to the store are kept for a quarter of a minute."""
    await steady(process, admin)
    await eventually(lambda: not grown(before, process.census()), "the end of what was begun")


async def test_whatever_a_guest_says(tmp_path: Path) -> None:
    with plugin(tmp_path) as process:
        async with process.session(ADMIN) as admin:
            await begin(admin)
            *crowd, once, late, last, tried = await invited(admin, GUESTS + 4)
            await enters(once)
            await steady(process, admin)
            before, there = process.census(), await places(process)

            # What is no request, and what is one but for what it says.
            heard = await asyncio.gather(*(crowd[number % GUESTS].say(said) for number, said in enumerate(ODD)))
            assert sum(map(fits, heard)) > len(ODD) / 2
            for number, changes in enumerate(WRONG):
                status, body = await crowd[number % GUESTS].join(**changes)
                assert status in {400, 409}, (changes, status, body)
                fits((status, body))
            assert await places(process) == there, "who is refused leaves nothing"

            # All of them at once, and each more than it may.
            async def speak(guest: Guest, seed: int) -> int:
                return sum([fits(await guest.say(said)) for said in requests(guest, SAID, seed)])

            answered = await asyncio.gather(*(speak(guest, ROUND + n) for n, guest in enumerate(crowd)))
            assert sum(answered) > GUESTS * SAID / 10
            assert await places(process) == there

            # Beginnings without an end; meanwhile another one comes in.
            held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            await asyncio.gather(*(hold(guest, said, held) for guest in crowd for said in HALVES * 4))
            node = await enters(late)
            assert len(held) >= GUESTS
            ended = await asyncio.gather(*(reader.read() for reader, _ in held), return_exceptions=True)
            assert len(ended) == len(held), "and all of those connections end, by the plugin's doing"
            for _, writer in held:
                writer.transport.abort()

            # Somebody of this node, who passes the firewall and is no guest.
            ip("addr", "add", "10.255.0.9/32", "dev", LINK)
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(
                    last.token.gateway_address, JOIN_PORT, local_addr=("10.255.0.9", 0)
                )
                writer.write(b"POST /join HTTP/1.1\r\n\r\n")
                assert await reader.read() == b""
                writer.close()

            await released(process, admin, before)
            assert process.census().children == before.children
            now = await places(process)
            assert {key for key in now.keys() - there.keys() if key.startswith(records.NODES)} == {
                records.key(records.NODES, node)
            }
            owners = {record.owner for record in records.readable(now.values(), records.Range)}
            assert owners <= {key.removeprefix(records.NODES) for key in now if key.startswith(records.NODES)}

            # One that asks for much at once, and one that does as it should.
            answers = await asyncio.gather(*(tried.join() for _ in range(door.EACH)))
            assert {status for status, _ in answers} <= {200, 429, 0}
            await enters(tried)
            assert await enters(last) != node
            owned = [r for r in records.readable((await places(process)).values(), records.Range) if r.block]
            assert len(owned) == 2 * 5, "each has a block of each family, and no more"
        assert process.process.poll() is None, process.words()
    assert process.process.returncode == 0, process.words()
    for word in ("Traceback", "never awaited", "Task exception", "failed"):
        assert word not in process.words(), process.words()[-4000:]
