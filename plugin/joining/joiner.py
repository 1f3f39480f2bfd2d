"""Joining a cluster with a token: the tunnel to the issuing node first, then everything through it.

Each step that fails says why. The order is that of likelihood: the token itself, this node's routes, then the handshake
(a closed port, a wrong address, a token that was taken back), then what the other node says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import msgspec

from plugin.joining import tokens
from plugin.model import IPNet
from plugin.store.mesh import JOIN_PORT
from stackpad import jsontext
from stackpad.errors import Conflict, InvalidRequest, StackpadError, Unavailable
from stackpad.etcd.endpoints import Endpoint

LIMIT = 13.5
"""Seconds a join may take until the other node has answered, whatever goes wrong."""

ANSWER = 4.5
"""Seconds of them for the other node's answer; it asks its store."""

EACH = 2.5
"""Seconds at most for one of the gateway's addresses before the next one is tried."""

Open = Callable[[tokens.Token, str], Awaitable[None]]
Handshake = Callable[[str], float]


class Joiner:
    """Goes through the steps.

    ``open_tunnel`` points the tunnel, with the token's key, at one of the gateway's endpoints ("": at none yet);
    ``handshake`` gives the time of the last handshake with a public key (0: none). ``routes`` are this node's other
    routes. ``limit`` is for all steps together (seconds): the addresses share what is left of it.
    """

    def __init__(
        self,
        open_tunnel: Open,
        handshake: Handshake,
        routes: Callable[[], Awaitable[Sequence[IPNet]]],
        limit: float = LIMIT,
    ) -> None:
        self._open, self._handshake, self._routes = open_tunnel, handshake, routes
        self._limit, self._step = limit, ""

    async def join(
        self, token: tokens.Token, request: tokens.JoinRequest, say: Callable[[str], None]
    ) -> tokens.JoinAnswer:
        """The answer of the node that gave out ``token``; raises :class:`StackpadError` with the reason."""
        began = time.monotonic()
        tokens.refuse_expired(token, time.time())
        try:
            async with asyncio.timeout(self._limit):
                self._step = "looking at this node's routes"
                # Before the other node knows of us: a place that was given and cannot be taken would be nobody's.
                tokens.refuse_overlap(await self._routes(), token.ranges)
                await self._shake_hands(token, began + self._limit * (1 - ANSWER / LIMIT), say)
                say(f"asking for a place through {token.gateway_address}")
                self._step = f"waiting for the answer of the node at {token.gateway_address}"
                answer = await self._ask(token, request)
        except TimeoutError as error:
            raise Unavailable(
                f"not in within {self._limit:g} s: {self._step} took too long; look at stackpad doctor here and on the "
                "node that made the token, then join again"
            ) from error
        # An older token did not say; and what counts is what the cluster says.
        tokens.refuse_overlap(await self._routes(), answer.cluster.ranges)
        return answer

    async def _shake_hands(self, token: tokens.Token, end: float, say: Callable[[str], None]) -> None:
        if not token.endpoints:
            raise InvalidRequest("the token names no address to reach its node at; set ENDPOINT there and make a new one")
        began, left = time.monotonic(), list(token.endpoints)
        tried: list[str] = []
        while time.monotonic() < end:
            left = left or list(token.endpoints)
            endpoint = left.pop(0)
            tried += [endpoint] if endpoint not in tried else []
            # Each has its turn: many addresses have a short one.
            patience = min(EACH, (end - time.monotonic()) / (len(left) + 1))
            say(f"calling {endpoint}")
            self._step = f"setting the tunnel to {endpoint} up"
            if len(tried) > 1:
                # WireGuard calls a peer every five seconds at most, wherever it is: a new one is called at once.
                await self._open(token, "")
            await self._open(token, endpoint)
            self._step = f"calling {endpoint}"
            if await self._answered(token, time.monotonic() + patience):
                return
        raise Unavailable(
            f"no handshake with {', '.join(tried)} (UDP) within {time.monotonic() - began:.0f} s: the port is closed "
            "there (open it in its firewall), the address is not reachable from here (set ENDPOINT on that node to one "
            "that is), its plugin does not run, or it does not know this token (expired by its clock, taken back, or not "
            "made by it)"
        )

    async def _answered(self, token: tokens.Token, end: float) -> bool:
        while time.monotonic() < end:
            # Any packet makes WireGuard call; that nobody may listen yet does not matter.
            try:
                async with asyncio.timeout(0.2):
                    _, writer = await asyncio.open_connection(token.gateway_address, JOIN_PORT)
                    writer.close()
                    return True
            except (OSError, TimeoutError):
                pass
            if self._handshake(token.gateway_key):
                return True
            await asyncio.sleep(0.05)
        return False

    async def _ask(self, token: tokens.Token, request: tokens.JoinRequest) -> tokens.JoinAnswer:
        url = f"http://{token.gateway_address}:{JOIN_PORT}/join"
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=ANSWER * self._limit / LIMIT), trust_env=False
                ) as session,
                session.post(url, data=msgspec.json.encode(request)) as response,
            ):
                body = await response.read()
                if response.status == 200:
                    return _checked(jsontext.decode(body, type=tokens.JoinAnswer), token.gateway_address)
                raise _refusal(response.status, body)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"the tunnel stands, but the node at {token.gateway_address} does not answer there "
                f"({str(error) or type(error).__name__}); look at stackpad doctor on that node, then join again"
            ) from error


def _checked(answer: tokens.JoinAnswer, who: str) -> tokens.JoinAnswer:
    tokens.check(answer)
    try:
        for url in answer.store:
            Endpoint.parse(url)
    except InvalidRequest as error:
        # Kept, it would be in the way of each start.
        raise InvalidRequest(
            f"the node at {who} says where the cluster's store is, and it cannot be there: {error}"
        ) from error
    return answer


def _refusal(status: int, body: bytes) -> StackpadError:
    try:
        reason = str(jsontext.decode(body)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        reason = f"it answered with status {status}"
    kind = {409: Conflict, 400: InvalidRequest}.get(status, Unavailable)
    return kind(f"the cluster refused this node: {reason}")
