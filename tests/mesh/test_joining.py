"""Joining through a real tunnel, to a node that the distribution's own tool has configured."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import time

import msgspec
import pytest

from plugin.joining import tokens
from plugin.joining.joiner import Joiner
from plugin.model import IPNet
from plugin.tunnel import wants
from plugin.wireguard.backend import Backend
from plugin.wireguard.keys import generate, public_key
from plugin.wireguard.model import Device, plan
from stackpad.errors import Unavailable
from tests.mesh.conftest import DEVICE, Other

GUEST, GATEWAY, NOBODY = "10.192.0.2", "10.192.64.1", "192.0.2.9:51900"


class Guest:
    """This node, with its real tunnel; what :class:`plugin.tunnel.loop.MeshLoop` does for a guest, without its loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._handshake = backend, 0.0

    async def join(self, token: tokens.Token) -> str:
        """Join, and return why it did not work."""
        request = tokens.JoinRequest(
            token=token.id, digest=token.digest, name="worker", public_key=public_key(generate()), time=time.time()
        )
        await self._backend.ensure(DEVICE, 1420)
        for words in (["addr", "add", f"{GUEST}/32", "dev", DEVICE], ["route", "add", GATEWAY, "dev", DEVICE]):
            subprocess.run(["ip", *words], check=True)
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look(token.gateway_key))
            joiner = Joiner(self._open, lambda _: self._handshake, self._routes)
            with pytest.raises(Unavailable) as refused:
                await joiner.join(token, request, lambda _: None)
            looking.cancel()
        return str(refused.value)

    async def _open(self, token: tokens.Token, endpoint: str) -> None:
        wanted = wants.of_guest(token, endpoint, 51820)
        device = Device(wanted.private_key, wanted.port, wanted.extra)
        await self._backend.apply(plan(device, await self._backend.observe(), {}))

    async def _look(self, key: str) -> None:
        while True:
            peer = (await self._backend.observe()).peers.get(key)
            self._handshake = 0.0 if peer is None else peer.last_handshake
            await asyncio.sleep(0.1)

    async def _routes(self) -> list[IPNet]:
        return []


def made(other: Other, *endpoints: str) -> tokens.Token:
    return tokens.Token(
        id="0a1b2c3d",
        private_key=generate(),
        preshared_key=base64.b64encode(os.urandom(32)).decode(),
        address=GUEST,
        gateway_key=other.public,
        gateway_address=GATEWAY,
        endpoints=endpoints,
        expires=time.time() + 3600,
    )


async def test_the_first_address_that_answers_is_taken(backend: Backend, other: Other) -> None:
    token = made(other, NOBODY, "192.0.2.8:51900", f"192.0.2.2:{other.port}")
    other.admit(public_key(token.private_key), f"{GUEST}/32", token.preshared_key)
    assert "the tunnel stands, but the node at 10.192.64.1 does not answer there" in await Guest(backend).join(token)


@pytest.mark.parametrize("forged", ["private_key", "preshared_key"])
async def test_a_forged_token_is_refused_with_the_reason(backend: Backend, other: Other, forged: str) -> None:
    token = made(other, f"192.0.2.2:{other.port}")
    other.admit(public_key(token.private_key), f"{GUEST}/32", token.preshared_key)
    false = tokens.read(tokens.write(msgspec.structs.replace(token, **{forged: generate()})))
    reason = await Guest(backend).join(false)
    assert reason.startswith("no handshake with 192.0.2.2:51900 (UDP) within ")
    assert "it does not know this token (expired by its clock, taken back, or not made by it)" in reason
