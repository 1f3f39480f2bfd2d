"""``stackpad page``: lets a browser on this machine see the status page, for as long as the command runs.

The page itself is the ingress's, on a socket for root only; here bytes are carried between it and a loopback port. What a
browser may ask for, and under which name, is looked at by the ingress.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from stackpad.cli import client, entry, output
from stackpad.cli.common import PLACES, USAGE, Json, answering

CHUNK = 1 << 16
MOST = 100
"""Connections at once; a browser has six."""

Listen = Annotated[str, typer.Option("--listen", metavar="ADDRESS:PORT", help="Loopback address; port 0 for any.")]
PageSocket = Annotated[
    Path, typer.Option("--socket", envvar="STACKPAD_PAGE_SOCKET", metavar="PATH", help="The status page's socket.")
]


def page(listen: Listen = "127.0.0.1:8377", socket: PageSocket = PLACES.page, as_json: Json = False) -> None:
    """Show the status page to browsers here until Ctrl-C. Everybody on this machine can read it meanwhile."""
    address, port = _address(listen)

    def ready(url: str) -> None:
        if as_json:
            output.show_json({"address": url})
        else:
            output.say(f"the status page is at {url} until you press Ctrl-C")

    with answering():
        client.request(client.page(socket), "/page.css")
    try:
        asyncio.run(carry(socket, address, port, ready))
    except KeyboardInterrupt:
        return
    except OSError as error:
        output.complain(f"{listen} cannot be listened at: {error.strerror or error}; choose another with --listen")
        raise typer.Exit(USAGE) from error


async def carry(socket: Path, address: str, port: int, ready: Callable[[str], None]) -> None:
    """Carry bytes between ``address`` and ``socket`` until cancelled; ``ready`` is told the page's URL."""
    free = asyncio.Semaphore(MOST)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with free:
            with contextlib.closing(writer), contextlib.suppress(OSError):
                with entry.held(socket) as path:
                    inner, outer = await asyncio.open_unix_connection(path)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_pipe(reader, outer), name="to the page")
                    both.create_task(_pipe(inner, writer), name="to the browser")

    tasks = asyncio.TaskGroup()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not asyncio's own task: it complains of one that is cancelled (until Python 3.12).
        tasks.create_task(serve(reader, writer), name="visit")

    server = await asyncio.start_server(accept, address, port, start_serving=False)
    async with server, tasks:
        shown = f"[{address}]" if ":" in address else address
        await server.start_serving()
        ready(f"http://{shown}:{server.sockets[0].getsockname()[1]}/")
        await server.serve_forever()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        # Whoever has ended hears no more, and the other way ends with it.
        writer.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host.strip("[]")).is_loopback and port.isascii() and port.isdigit() and int(port) < 65536:
            return host.strip("[]"), int(port)
    output.complain(f"--listen {text} is no loopback address with a port, such as 127.0.0.1:8377")
    raise typer.Exit(USAGE)
