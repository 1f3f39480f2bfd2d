"""HTTP on unix sockets: decodes Docker's calls, dispatches them, and makes an answer of whatever happens.

An error is told in the body, under both names the two drivers use, with status 200: that is how its text reaches
the user without a prefix. A body that should be there and is not is refused: Docker repeats a call whose connection
broke with an empty one. Source: moby ``pkg/plugins/client.go`` and ``daemon/libnetwork/drivers/remote/driver.go``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import web

from plugin.docker import protocol
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import SPACE, Ipam
from plugin.metrics import Metrics
from stackpad import jsontext
from stackpad.errors import StackpadError

CONTENT_TYPE = "application/vnd.docker.plugins.v1.2+json"
DEADLINE = 20.0
"""Seconds a call may take; after a daemon restart Docker itself would wait for ever."""

MAX_BODY = 1 << 20
"""Bytes; Docker's largest calls have a few kilobytes."""

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """How to serve one method: what its body is, and who answers. ``at_once``: before the first reconciliation."""

    handler: Callable[[Any], Awaitable[Answer]]
    body: Any = None
    at_once: bool = False


def constants() -> dict[str, Call]:
    """The methods whose answers hang on nothing, by path: what an engine asks before it takes a plugin for a driver."""
    network: dict[str, Answer] = {
        "GetCapabilities": {"Scope": "local", "ConnectivityScope": "local"},
        "DiscoverNew": {},
        "DiscoverDelete": {},
        # Global scope only, which is not ours.
        "FreeNetwork": {},
        "GwAllocCheck": {"SkipIPv4": False, "SkipIPv6": False},
    }
    address: dict[str, Answer] = {
        "GetCapabilities": {"RequiresMACAddress": False, "RequiresRequestReplay": True},
        "GetDefaultAddressSpaces": {"LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": SPACE},
    }
    return {
        "/Plugin.Activate": _constant({"Implements": [protocol.NETWORK_DRIVER, protocol.IPAM_DRIVER]}),
        **{f"/{protocol.NETWORK_DRIVER}.{name}": _constant(answer) for name, answer in network.items()},
        **{f"/{protocol.IPAM_DRIVER}.{name}": _constant(answer) for name, answer in address.items()},
    }


def calls(driver: NetworkDriver, ipam: Ipam) -> dict[str, Call]:
    """Every method of both drivers, by its path."""
    network: dict[str, Call] = {
        "CreateNetwork": Call(driver.create_network, protocol.CreateNetwork),
        "DeleteNetwork": Call(driver.delete_network, protocol.NetworkRef),
        "CreateEndpoint": Call(driver.create_endpoint, protocol.CreateEndpoint),
        "DeleteEndpoint": Call(driver.delete_endpoint, protocol.EndpointRef),
        "EndpointOperInfo": Call(driver.endpoint_info, protocol.EndpointRef),
        "Join": Call(driver.join, protocol.Join),
        "Leave": Call(driver.leave, protocol.EndpointRef),
        "ProgramExternalConnectivity": Call(driver.program_external_connectivity, protocol.ProgramExternalConnectivity),
        "RevokeExternalConnectivity": Call(driver.revoke_external_connectivity, protocol.EndpointRef),
        # Global scope only, which is not ours; what it is given is given back, and nothing is kept.
        "AllocateNetwork": Call(_echo_options, dict[str, Any]),
    }
    address: dict[str, Call] = {
        "RequestPool": Call(ipam.request_pool, protocol.RequestPool),
        "ReleasePool": Call(ipam.release_pool, protocol.ReleasePool),
        "RequestAddress": Call(ipam.request_address, protocol.RequestAddress),
        "ReleaseAddress": Call(ipam.release_address, protocol.ReleaseAddress),
    }
    return {
        **constants(),
        **{f"/{protocol.NETWORK_DRIVER}.{name}": call for name, call in network.items()},
        **{f"/{protocol.IPAM_DRIVER}.{name}": call for name, call in address.items()},
    }


def _unknown(method: str) -> str:
    return f"{ascii(method)[1:60]} is no call this plugin knows; is something else than Docker calling?"


class Server:
    """The web application behind both of Docker's sockets; ``otherwise`` is what a call not in the table is told."""

    def __init__(
        self,
        table: Mapping[str, Call],
        ready: asyncio.Event,
        metrics: Metrics,
        otherwise: Callable[[str], str] = _unknown,
    ) -> None:
        self._table, self._ready, self._metrics, self._otherwise = table, ready, metrics, otherwise
        self._log = structlog.get_logger("driver")

    def application(self) -> web.Application:
        """An application that answers every path."""
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", r"/{method:[\s\S]*}", self._serve)
        return application

    async def _serve(self, request: web.Request) -> web.Response:
        method = request.path
        began = time.perf_counter()
        call = self._table.get(method)
        if call is None:
            return _error(self._otherwise(method))
        try:
            async with asyncio.timeout(DEADLINE):
                body = await request.read()
                answer = await self._answer(method, call, body)
        except StackpadError as error:
            self._log.info("refused", call=method, reason=str(error))
            self._metrics.call(method, "refused", time.perf_counter() - began)
            return _error(str(error))
        except TimeoutError:
            self._log.error("too slow", call=method, seconds=DEADLINE)
            self._metrics.call(method, "timeout", time.perf_counter() - began)
            return _error(f"{method[1:]} did not finish within {DEADLINE:.0f} s; see the plugin's log, then try again")
        except web.HTTPRequestEntityTooLarge:
            self._metrics.call(method, "refused", time.perf_counter() - began)
            return _error(f"{method[1:]}: the body is larger than {MAX_BODY} bytes, more than Docker ever sends")
        except Exception:
            self._log.exception("failed", call=method)
            self._metrics.call(method, "failed", time.perf_counter() - began)
            return _error(f"{method[1:]} failed inside the plugin; its log has the reason")
        elapsed = time.perf_counter() - began
        self._metrics.call(method, "ok", elapsed)
        self._log.debug("answered", call=method, milliseconds=round(elapsed * 1000, 1))
        return web.Response(body=msgspec.json.encode(answer), content_type=CONTENT_TYPE)

    async def _answer(self, method: str, call: Call, body: bytes) -> Answer:
        if call.body is None:
            return await call.handler(None)
        if not body.strip():
            raise StackpadError(
                f"{method[1:]} came without its arguments: a call of Docker's broke off and was repeated empty; "
                "try the command again"
            )
        try:
            decoded = jsontext.decode(body, type=call.body)
        except msgspec.DecodeError as error:
            raise StackpadError(f"{method[1:]} cannot be understood: {error}; is it Docker that is calling?") from error
        if not call.at_once:
            await self._ready.wait()
        return await call.handler(decoded)


def _constant(answer: Answer) -> Call:
    async def handler(_: object) -> Answer:
        return answer

    return Call(handler, at_once=True)


async def _echo_options(request: dict[str, Any]) -> Answer:
    return {"Options": request.get("Options") or {}}


def _error(text: str) -> web.Response:
    return web.Response(body=msgspec.json.encode({"Err": text, "Error": text}), content_type=CONTENT_TYPE)
