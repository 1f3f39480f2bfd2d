"""Where the store is and whom to trust there: addresses, TLS files, sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from stackpad.errors import InvalidRequest, Unavailable
from stackpad.etcd import sentences

_KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))
_USER_TIMEOUT: Final = 10_000
"""A peer that is gone is noticed by the kernel within about ten seconds, with and without data on the way."""

_SUN_PATH: Final = 107


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the authority that signed the servers' certificates, and our own certificate and key.

    Without ``ca`` the system's authorities are trusted. Files that changed are read again at the next request.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of the store; ``path`` for a unix socket."""

    url: str
    base: str
    path: str | None = None

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """From a setting; raises :class:`InvalidRequest`."""
        try:
            parts = urlsplit(url.strip())
        except ValueError as error:
            raise _unusable(url) from error
        if parts.scheme == "unix":
            path = url.strip().removeprefix("unix://")
            if not path.startswith("/"):
                raise InvalidRequest(f"store {url} is not an absolute path; write it as unix:///run/etcd/client")
            if len(path.encode()) > _SUN_PATH:
                raise InvalidRequest(f"store {url} is longer than the {_SUN_PATH} bytes a unix socket's path may have")
            return cls(url.strip(), "http://etcd", path)
        if "@" in parts.netloc:
            bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # an error is no place for a password
            raise InvalidRequest(f"store {bare} was given with a user; set STORE_USER and STORE_PASSWORD instead")
        try:
            usable = parts.scheme in {"http", "https"} and parts.hostname and parts.path in {"", "/"} and not parts.query
            port = parts.port or 2379
        except ValueError:
            usable, port = False, 0
        if not usable:
            raise _unusable(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return cls(url.strip().rstrip("/"), f"{parts.scheme}://{host}:{port}")


def _unusable(url: str) -> InvalidRequest:
    # An error is no place for a password, either.
    shown = url.rpartition("@")[2]
    return InvalidRequest(
        f"store {shown!r} is not an endpoint; write https://HOST:2379, http://HOST:2379 or unix:///PATH"
    )


class Trust:
    """The TLS context of a :class:`Tls`, made anew when one of its files has changed."""

    def __init__(self, tls: Tls | None) -> None:
        self._tls = tls or Tls()
        self._made: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Made once for each state of the files; raises :class:`Unavailable` naming the file and the setting."""
        files = (self._tls.ca, self._tls.certificate, self._tls.key)
        try:
            state = tuple(path and ((stat := path.stat()).st_mtime_ns, stat.st_size) for path in files)
            if self._made is None or self._made[0] != state:
                self._made = (state, _context(self._tls))
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(sentences.files(files, error)) from error
        return self._made[1]


async def refusal_of_certificate(endpoint: Endpoint, context: ssl.SSLContext) -> ssl.SSLError | None:
    """What the server says against our certificate, asked on a connection of its own; None if it cannot be asked.

    With TLS 1.3 a client is done before the server has looked at its certificate (RFC 8446, section 4.4), so the
    refusal comes while the first request is on its way, and what the server closes with that unread is reset: the
    alert is lost. Who sends nothing gets it. A server that is content waits for a request: bound this by a time.
    """
    parts = urlsplit(endpoint.base)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        try:
            await reader.read(1)
        finally:
            writer.transport.abort()
    except ssl.SSLError as error:
        return error
    except OSError:
        return None
    return None


def tcp_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A TCP socket whose peer cannot vanish unnoticed (tcp(7))."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
    return made


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca and str(tls.ca))
    # Python 3.13 and newer refuse authorities that lack extensions of RFC 5280. Etcd's members and tools do not mind, and
    # a site's authority is often made with a plain openssl(1); the signature, the dates and the name are checked as ever.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
