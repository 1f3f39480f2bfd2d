"""HTTP over a unix socket, with the standard library: the sockets of plugin, ingress, engine and Caddy.

One request per connection; nothing here is long-lived. Whatever goes wrong is an
:class:`~stackpad.errors.Unavailable` that names the socket and what to look at.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stackpad import jsontext
from stackpad.cli import entry
from stackpad.errors import Conflict, InvalidRequest, NotFound, StackpadError, Unavailable

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds for connecting and for each read; everything asked for is in the other side's memory."""

MAX_BODY = 256 << 20
"""Bytes that are read at most; a node with a thousand networks says about half a megabyte."""

PLUGIN_REMEDY = "is the plugin enabled? see docker plugin ls; docker plugin enable stackpad/net starts it"
INGRESS_REMEDY = "is the ingress running? docker start stackpad-ingress, or the container of your Compose file, starts it"
PAGE_REMEDY = "is the ingress running, and as new as this command?"
ENGINE_REMEDY = "is the Docker engine running? see systemctl status docker"
CADDY_REMEDY = "is Caddy running, with this socket as its admin address?"


@dataclass(frozen=True, slots=True)
class Server:
    """Who listens at a socket: what to call it, where it is, what to look at when it does not answer.

    ``host`` goes into the header ``Host``: Caddy on a unix socket takes the empty one, and others any. ``guarded`` is for
    a socket that the ingress could replace: a link there is not followed.
    """

    name: str
    path: Path
    remedy: str
    host: str = ""
    guarded: bool = False


def plugin(path: Path) -> Server:
    """The plugin's socket for the command line."""
    return Server("the plugin", path, PLUGIN_REMEDY)


def ingress(path: Path) -> Server:
    """The ingress's."""
    return Server("the ingress", path, INGRESS_REMEDY, guarded=True)


def page(path: Path) -> Server:
    """The ingress's socket for browsers."""
    return Server("the status page", path, PAGE_REMEDY, host="localhost", guarded=True)


def engine(path: Path) -> Server:
    """The Docker engine's API."""
    return Server("the Docker engine", path, ENGINE_REMEDY, host="docker")


def caddy(path: Path) -> Server:
    """Caddy's admin API."""
    return Server("Caddy", path, CADDY_REMEDY, guarded=True)


class _Connection(http.client.HTTPConnection):
    def __init__(self, server: Server, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._server = server

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with entry.held(self._server.path) if self._server.guarded else nullcontext(str(self._server.path)) as path:
            self.sock.connect(path)


def request(
    server: Server, path: str, *, method: str = "GET", payload: bytes | None = None, timeout: float = TIMEOUT
) -> bytes:
    """The body of a successful answer; raises :class:`Unavailable` for everything else.

    What a server refuses with a sentence of its own is raised as the kind of error it is, with that sentence.
    """
    connection = _Connection(server, timeout)
    with _translating(server):
        try:
            connection.request(method, path, payload, headers={"Host": server.host})
            response = connection.getresponse()
            body = response.read(MAX_BODY)
        finally:
            connection.close()
    if response.status != http.client.OK:
        reason = _sentence(body)
        if reason is not None:
            raise _KINDS.get(response.status, Unavailable)(reason)
        raise Unavailable(
            f"{server.name} at {server.path} answers {path} with {response.status} {response.reason}; {server.remedy}"
        )
    return body


def ask(server: Server, path: str, payload: Any, *, timeout: float = TIMEOUT) -> Any:
    """Have something done: ``payload`` goes there as JSON, and what comes back is returned."""
    return jsontext.decode(
        request(server, path, method="POST", payload=msgspec.json.encode(payload), timeout=timeout) or b"null"
    )


def stream(server: Server, path: str, payload: Any, *, timeout: float = TIMEOUT) -> Iterator[dict[str, Any]]:
    """The same for something that takes a while: the objects of the answer, one a line, as they come."""
    connection = _Connection(server, timeout)
    with _translating(server):
        try:
            connection.request("POST", path, msgspec.json.encode(payload), headers={"Host": server.host})
            for line in connection.getresponse():
                yield jsontext.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise Unavailable(f"{server.name} at {server.path} answers with something else than expected") from error
        finally:
            connection.close()


_KINDS: dict[int, type[StackpadError]] = {400: InvalidRequest, 404: NotFound, 409: Conflict}


def _sentence(body: bytes) -> str | None:
    """What a server says of an error, if it does so in our way."""
    try:
        return str(jsontext.decode(body, type=dict[str, str])["error"])
    except (msgspec.MsgspecError, KeyError):
        return None


@contextmanager
def _translating(server: Server) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"{server.name} is not there: no socket {server.path}; {server.remedy}") from error
    except PermissionError as error:
        raise Unavailable(f"{server.path} may only be opened by root; use sudo") from error
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(f"{server.name} at {server.path} does not answer: {reason}; {server.remedy}") from error


def fetch(
    server: Server, path: str, kind: type[T], *, method: str = "GET", payload: Any = None, timeout: float = TIMEOUT
) -> T:
    """A JSON answer as a value of ``kind``; fields that ``kind`` does not have are passed over.

    A ``payload`` goes there as JSON, by POST.
    """
    if payload is None:
        body = request(server, path, method=method, timeout=timeout)
    else:
        body = request(server, path, method="POST", payload=msgspec.json.encode(payload), timeout=timeout)
    try:
        return jsontext.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Unavailable(
            f"{server.name} at {server.path} answers {path} with something else than expected: {error}; "
            "is it of the same version as this command?"
        ) from error
