"""gRPC through Caddy: a real server without TLS, and a real client of the public side."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingress.routes import Table
from stackpad.labels import Wire
from tests.caddy.workshop import HOST, Shop, container, eventually, free_port, upstream

SERVER = """
import grpc, sys
from concurrent import futures
def unary(request, context):
    context.set_trailing_metadata((("served-by", "echo"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name")
    return b"echo " + request
def stream(requests, context):
    for request in requests:
        yield b"echo " + request
class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/test.Echo/Stream": grpc.stream_stream_rpc_method_handler(stream),
        }.get(details.method)
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Echo(),))
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""

CLIENT = """
import grpc, json, pathlib, sys
port, root, host = sys.argv[1:]
options = (("grpc.ssl_target_name_override", host), ("grpc.default_authority", f"{host}:{port}"))
credentials = grpc.ssl_channel_credentials(pathlib.Path(root).read_bytes())
with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
    unary, stream = channel.unary_unary("/test.Echo/Unary"), channel.stream_stream("/test.Echo/Stream")
    def say(value):
        print(json.dumps(value), flush=True)
    answer, call = unary.with_call(b"one", timeout=60)
    say([answer.decode(), call.code().name, dict(call.trailing_metadata()).get("served-by")])
    try:
        unary(b"fail", timeout=60)
    except grpc.RpcError as error:
        say([error.code().name, error.details()])
    # Each message is sent when its line is read, so that both ways are open at the same time.
    for answer in stream((line.strip().encode() for line in sys.stdin), timeout=60):
        say(answer.decode())
"""


@contextlib.asynccontextmanager
async def grpc_server() -> AsyncIterator[int]:
    """Echoes; yields its port."""
    if importlib.util.find_spec("grpc") is None:
        pytest.skip("no grpc: make .venv anew, or install grpcio from PyPI")
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)])  # noqa: ASYNC220 - it starts in no time
    try:

        async def accepts() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(accepts, "the server to listen")
        yield port
    finally:
        process.kill()
        process.wait()


async def change(place: Shop, before: Table, port: int, other: int, number: int) -> Table:
    """Somebody else's service comes."""
    more = [container(f"n{number}", port=other, project=f"n{number}", service="n")]
    return await place.apply(container(port=port, wire=Wire.H2C), *more, before=before)


async def test_calls_errors_and_streams_both_ways_over_changes_of_others(place: Shop) -> None:
    async with grpc_server() as port, upstream() as other:
        made = await place.apply(container(port=port, wire=Wire.H2C))
        await place.status()  # the certificate
        root: Path = place.caddy.home / "data/caddy/pki/authorities/local/root.crt"
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, str(place.settings.https_port), str(root), HOST,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdin is not None
        assert client.stdout is not None

        async def said() -> object:
            assert client.stdout is not None
            return json.loads(await asyncio.wait_for(client.stdout.readline(), 60))

        try:
            assert await said() == ["echo one", "OK", "echo"]
            assert await said() == ["NOT_FOUND", "nothing of that name"]
            for number in range(4):
                client.stdin.write(f"{number}\n".encode())
                assert await said() == f"echo {number}"
                made = await change(place, made, port, other, number)
            client.stdin.write_eof()
            assert await asyncio.wait_for(client.wait(), 60) == 0
        finally:
            if client.returncode is None:
                client.kill()
