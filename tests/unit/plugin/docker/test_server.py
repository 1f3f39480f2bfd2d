"""HTTP as the engine speaks it: status 200 whatever happens, errors under both names, and nothing before its time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from aiohttp import UnixConnector
from structlog.testing import capture_logs

from plugin.docker import server
from plugin.docker.driver import NetworkDriver
from plugin.docker.ipam import Ipam
from tests import samples
from tests.served import Plugin, Refused

TABLE = server.calls(object.__new__(NetworkDriver), object.__new__(Ipam))
EMPTY_IS_WRONG = sorted(name for name, call in TABLE.items() if call.body is not None)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("Plugin.Activate", {"Implements": ["NetworkDriver", "IpamDriver"]}),
        ("NetworkDriver.GetCapabilities", {"Scope": "local", "ConnectivityScope": "local"}),
        ("IpamDriver.GetCapabilities", {"RequiresMACAddress": False, "RequiresRequestReplay": True}),
        (
            "IpamDriver.GetDefaultAddressSpaces",
            {"LocalDefaultAddressSpace": "stackpad", "GlobalDefaultAddressSpace": "stackpad"},
        ),
        ("NetworkDriver.DiscoverNew", {}),
        ("NetworkDriver.DiscoverDelete", {}),
        ("NetworkDriver.GwAllocCheck", {"SkipIPv4": False, "SkipIPv6": False}),
        ("NetworkDriver.FreeNetwork", {}),
    ],
)
async def test_what_is_answered_at_once(plugin: Plugin, method: str, answer: dict[str, Any]) -> None:
    """The engine waits for the capabilities before it starts anything, so they wait for nothing."""
    plugin.ready.clear()
    assert await plugin.call(method) == answer
    assert await plugin.call(method, {"Some": "thing"}) == answer


async def test_the_rest_waits_until_the_kernel_has_been_looked_at(plugin: Plugin) -> None:
    plugin.ready.clear()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(plugin.network("CreateNetwork", samples.create_network(1)))
        # The answer to a later call on another connection shows that the first one has been read.
        await plugin.call("Plugin.Activate")
        assert not waiting.done()
        assert plugin.state.networks == {}
        plugin.ready.set()
    assert waiting.result() == {}


@pytest.mark.parametrize("body", [b"", b"\n", b"   "])
@pytest.mark.parametrize("method", EMPTY_IS_WRONG)
async def test_an_empty_body_is_a_repetition_that_lost_its_arguments(plugin: Plugin, method: str, body: bytes) -> None:
    status, answer = await plugin.raw(method[1:], body)
    assert status == 200
    assert "came without its arguments" in answer["Err"]
    assert answer["Err"] == answer["Error"]


def test_every_call_of_the_protocol_is_there() -> None:
    assert {name.rpartition(".")[2] for name in EMPTY_IS_WRONG if "Ipam" in name} == {
        "RequestPool",
        "ReleasePool",
        "RequestAddress",
        "ReleaseAddress",
    }
    assert {name.rpartition(".")[2] for name in EMPTY_IS_WRONG if "Network" in name and "Ipam" not in name} == {
        "CreateNetwork",
        "DeleteNetwork",
        "CreateEndpoint",
        "DeleteEndpoint",
        "EndpointOperInfo",
        "Join",
        "Leave",
        "ProgramExternalConnectivity",
        "RevokeExternalConnectivity",
        "AllocateNetwork",
    }


@pytest.mark.parametrize("method", ["NetworkDriver.Nonsense", "VolumeDriver.Create", "", "a/b", "%00%0a", "x" * 5000])
async def test_an_unknown_method(plugin: Plugin, method: str) -> None:
    status, answer = await plugin.raw(method, b"{}")
    assert status == 200
    assert "is no call this plugin knows" in answer["Err"]
    assert len(answer["Err"]) < 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "cannot be understood"),
        (b"\xff\xfe", "cannot be understood"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `NetworkID`"),
        (b'{"NetworkID": 5}', "Expected `str`, got `int` - at `$.NetworkID`"),
        (b'{"NetworkID": "n", "IPv4Data": [1]}', "at `$.IPv4Data[0]`"),
        (b'{"NetworkID": "\\ud800"}', "cannot be understood"),
        (b'{"Options": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "cannot be understood"),
        (b'{"NetworkID": "' + b"x" * (server.MAX_BODY + 1) + b'"}', "the body is larger than"),
    ],
)
async def test_bodies_nobody_understands(plugin: Plugin, body: bytes, said: str) -> None:
    with capture_logs() as logs:
        status, answer = await plugin.raw("NetworkDriver.CreateNetwork", body)
    assert status == 200
    assert said in answer["Err"]
    assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []
    assert await plugin.call("NetworkDriver.CreateNetwork", samples.create_network(1)) == {}


async def test_the_options_of_a_global_network_are_given_back(plugin: Plugin) -> None:
    assert await plugin.network("AllocateNetwork", {"Options": {"a": "b"}}) == {"Options": {"a": "b"}}
    assert await plugin.network("AllocateNetwork", {"Options": None}) == {"Options": {}}


async def test_a_call_that_takes_too_long_is_called_off(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine itself would wait for ever, and hold the container's lock."""
    monkeypatch.setattr(server, "DEADLINE", 0.05)
    plugin.ready.clear()
    with capture_logs() as logs, pytest.raises(Refused, match=r"CreateNetwork did not finish within"):
        await plugin.network("CreateNetwork", samples.create_network(1))
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["too slow"]
    assert plugin.state.networks == {}


async def test_a_fault_of_our_own_is_told_without_its_insides(plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(network_id: str) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(plugin.reconciler, "settle", broken)
    with (
        capture_logs() as logs,
        pytest.raises(Refused, match="failed inside the plugin; its log has the reason") as refusal,
    ):
        await plugin.network("CreateNetwork", samples.create_network(1))
    assert "secret" not in str(refusal.value)
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["failed"]
    assert plugin.state.networks == {}
    monkeypatch.undo()
    assert await plugin.call("Plugin.Activate")


async def test_calls_are_counted_by_outcome(plugin: Plugin) -> None:
    await plugin.network("CreateNetwork", samples.create_network(1))
    with pytest.raises(Refused):
        await plugin.network("CreateNetwork", {})
    text = plugin.metrics.exposition().decode()
    for outcome in ("ok", "refused"):
        labels = f'call="NetworkDriver.CreateNetwork",outcome="{outcome}"'
        assert f"stackpad_driver_call_seconds_count{{{labels}}} 1.0" in text
    assert "stackpad_networks 1.0" in text


async def test_an_unknown_method_makes_no_series(plugin: Plugin) -> None:
    await plugin.raw("NetworkDriver.Nonsense", b"{}")
    assert "Nonsense" not in plugin.metrics.exposition().decode()


@pytest.mark.parametrize("host", ["", "plugin.moby.localhost"])
async def test_the_bytes_of_old_and_new_engines(plugin: Plugin, host: str) -> None:
    """An empty Host header and no Content-Type; and a connection that says nothing, as `plugin enable` makes one."""
    path = cast(UnixConnector, plugin.session.connector).path
    _, silent = await asyncio.open_unix_connection(path)
    silent.close()
    reader, writer = await asyncio.open_unix_connection(path)
    body = json.dumps(samples.create_network(1)).encode() + b"\n"
    writer.write(
        b"POST /NetworkDriver.CreateNetwork HTTP/1.1\r\nHost: %b\r\nUser-Agent: Go-http-client/1.1\r\n"
        b"Content-Length: %d\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n%b"
        % (host.encode(), len(body), body)
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 200 ")
    assert f"Content-Type: {server.CONTENT_TYPE}" in head
    assert await reader.readexactly(2) == b"{}"
    writer.close()
    await writer.wait_closed()
