"""Carries requests to one of several etcd endpoints and turns every failure into a sentence.

A request that could not be sent, or a read, goes to the next endpoint. A write that was sent and not answered raises
:class:`Undecided`: etcd may have done it, and only the caller's condition makes a repetition safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
import msgspec

from stackpad.errors import InvalidRequest, Unavailable
from stackpad.etcd import sentences
from stackpad.etcd.endpoints import Endpoint, Tls, Trust, refusal_of_certificate, tcp_socket
from stackpad.etcd.messages import (
    UNAUTHENTICATED,
    AuthRequest,
    AuthResponse,
    Refusal,
    Wire,
    decode,
    encode,
)
from stackpad.etcd.records import Undecided

T = TypeVar("T")

_LARGE: Final = 1 << 20
"""Bytes from which on aiohttp wants a body in pieces."""

_AUTHENTICATE: Final = "/v3/auth/authenticate"


class Rejected(Unavailable):
    """The store answered, and the answer is no; ``code`` is gRPC's, ``text`` etcd's own."""

    def __init__(self, message: str, code: int, text: str) -> None:
        super().__init__(message)
        self.code, self.text = code, text


class _Unsent(Unavailable):
    """Nothing was done: any request may go elsewhere."""


class _Unanswered(Unavailable):
    """It may have been done."""


class Transport:
    """The connections to the store; an async context manager.

    ``timeout`` bounds each step of an attempt at one endpoint (login, answer, its body), in seconds; a third of it is for
    the connection.
    """

    def __init__(self, endpoints: Sequence[str], *, tls: Tls | None, user: str, password: str, timeout: float) -> None:
        self.endpoints = [Endpoint.parse(url) for url in endpoints]
        if not self.endpoints:
            raise InvalidRequest("the store has no endpoint; set STORE to at least one, such as https://10.0.0.1:2379")
        self.timeout = timeout
        self.user = user
        self._trust, self._password = Trust(tls), password
        self._preferred = 0
        self._token = ""
        self._stack = contextlib.AsyncExitStack()
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._answered: set[str] = set()

    async def __aenter__(self) -> Transport:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=max(self.timeout / 3, 0.1))
        async with contextlib.AsyncExitStack() as stack:
            for endpoint in self.endpoints:
                connector: aiohttp.BaseConnector = (
                    aiohttp.TCPConnector(limit=0, socket_factory=tcp_socket)
                    if endpoint.path is None
                    else aiohttp.UnixConnector(endpoint.path, limit=0)
                )
                session = aiohttp.ClientSession(connector=connector, timeout=limits, auto_decompress=False)
                self._sessions[endpoint.url] = await stack.enter_async_context(session)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def call(self, path: str, message: Wire, answer: type[T], *, repeatable: bool) -> T:
        """One request, one answer; ``repeatable`` says that doing it twice is doing it once."""
        reasons: list[Unavailable] = []
        for endpoint in self._order():
            try:
                return decode(answer, await self._exchange(endpoint, path, encode(message)))
            except _Unsent as error:
                reasons.append(error)
            except _Unanswered as error:
                if not repeatable:
                    raise Undecided(f"{error}; what was to be written may or may not be there") from error
                reasons.append(error)
            except msgspec.DecodeError as error:
                raise Unavailable(sentences.not_etcd(endpoint.url, str(error))) from error
            self._avoid(endpoint)
        raise Unavailable("; ".join(str(reason) for reason in reasons)) from reasons[-1]

    @contextlib.asynccontextmanager
    async def stream(self, path: str, message: Wire) -> AsyncIterator[tuple[str, aiohttp.StreamReader]]:
        """The endpoint and the body of an answer that does not end; raises :class:`Unavailable`.

        Reading from the body raises what aiohttp raises; hand it to :meth:`broken`.
        """
        async with contextlib.AsyncExitStack() as stack:
            reasons: list[Unavailable] = []
            for endpoint in self._order():
                try:
                    response = await self._open(endpoint, path, encode(message), stack)
                except (_Unsent, _Unanswered) as error:
                    reasons.append(error)
                    self._avoid(endpoint)
                    continue
                yield endpoint.url, response.content
                return
            raise Unavailable("; ".join(str(reason) for reason in reasons)) from reasons[-1]

    def broken(self, url: str, error: BaseException) -> Unavailable:
        """What to raise when a stream from ``url`` failed; the next one goes to the next endpoint."""
        self._avoid(next(endpoint for endpoint in self.endpoints if endpoint.url == url))
        return Unavailable(sentences.broken(url, error))

    def forget_token(self) -> None:
        """Authenticate again before the next request."""
        self._token = ""

    def _order(self) -> list[Endpoint]:
        return self.endpoints[self._preferred :] + self.endpoints[: self._preferred]

    def _avoid(self, endpoint: Endpoint) -> None:
        if self.endpoints[self._preferred] is endpoint:
            self._preferred = (self._preferred + 1) % len(self.endpoints)

    async def _exchange(self, endpoint: Endpoint, path: str, body: bytes) -> bytes:
        try:
            async with contextlib.AsyncExitStack() as stack:
                # What it takes until there is an answer is bounded there, where it is known whether anything was sent.
                response = await self._open(endpoint, path, body, stack)
                async with asyncio.timeout(self.timeout):
                    return await response.read()
        except TimeoutError as error:
            raise _Unanswered(sentences.silent(endpoint.url, self.timeout)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Unanswered(sentences.broken(endpoint.url, error)) from error

    async def _open(
        self, endpoint: Endpoint, path: str, body: bytes, stack: contextlib.AsyncExitStack
    ) -> aiohttp.ClientResponse:
        """Send and see what the status is; once more with a new token if it was the token that displeased."""
        for last in (False, True):
            if self.user and not self._token:
                self._token = await self._authenticate(endpoint)
            used = self._token
            response = await stack.enter_async_context(await self._post(endpoint, path, body))
            if response.status == 200:
                return response
            try:
                async with asyncio.timeout(self.timeout):
                    data = await response.read()
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _Unanswered(sentences.broken(endpoint.url, error)) from error
            if (refusal := _refusal(data)) is None:
                raise Unavailable(sentences.not_gateway(endpoint.url, response.status, data))
            if self.user and sentences.token_expired(refusal.code == UNAUTHENTICATED, refusal.text) and not last:
                if self._token == used:
                    self._token = ""
                continue
            if sentences.unanswered(refusal.code):
                raise _Unanswered(sentences.refused(endpoint.url, refusal.text, self.user))
            raise Rejected(sentences.refused(endpoint.url, refusal.text, self.user), refusal.code, refusal.text)
        raise AssertionError("the second round returns or raises")

    async def _post(self, endpoint: Endpoint, path: str, body: bytes) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
        # hasleader: a member that has lost its cluster says so instead of keeping a watch open and silent.
        if self._token and path != _AUTHENTICATE:
            headers["Authorization"] = self._token
        context = self._trust.context() if endpoint.base.startswith("https:") else None
        try:
            async with asyncio.timeout(self.timeout):
                response = await self._sessions[endpoint.url].post(
                    endpoint.base + path,
                    data=io.BytesIO(body) if len(body) > _LARGE else body,
                    headers=headers,
                    ssl=context or True,
                    allow_redirects=False,
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise _Unsent(sentences.unreachable(endpoint.url, error)) from error
        except TimeoutError as error:
            raise _Unanswered(sentences.silent(endpoint.url, self.timeout)) from error
        except (aiohttp.ClientError, OSError) as error:
            said: Exception = error
            if context is not None and not sentences.is_tls(error) and endpoint.url not in self._answered:
                # Nothing can have been done by who has never answered and turns our certificate down.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.timeout / 3):
                        said = await refusal_of_certificate(endpoint, context) or error
            kind = _Unsent if sentences.is_tls(said) else _Unanswered
            raise kind(sentences.broken(endpoint.url, said)) from said
        self._answered.add(endpoint.url)
        return response

    async def _authenticate(self, endpoint: Endpoint) -> str:
        """A new token. However that fails, nothing has been done of the request that it is for."""
        body = encode(AuthRequest(self.user, self._password))
        try:
            async with await self._post(endpoint, _AUTHENTICATE, body) as response:
                async with asyncio.timeout(self.timeout):
                    data = await response.read()
                if response.status == 200:
                    return decode(AuthResponse, data).token
        except _Unanswered as error:
            raise _Unsent(str(error)) from error
        except TimeoutError as error:
            raise _Unsent(sentences.silent(endpoint.url, self.timeout)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Unsent(sentences.broken(endpoint.url, error)) from error
        except msgspec.DecodeError as error:
            raise _Unsent(sentences.not_etcd(endpoint.url, str(error))) from error
        if (refusal := _refusal(data)) is None:
            raise Unavailable(sentences.not_gateway(endpoint.url, response.status, data))
        if "not enabled" in refusal.text:
            return ""  # a password nobody asks for: as etcd's own clients do, go on without
        if sentences.unanswered(refusal.code):
            raise _Unsent(sentences.refused(endpoint.url, refusal.text, self.user))
        raise Rejected(sentences.refused(endpoint.url, refusal.text, self.user), refusal.code, refusal.text)


def _refusal(data: bytes) -> Refusal | None:
    """The gateway's error; None when this is not etcd's."""
    try:
        refusal = decode(Refusal, data)
    except msgspec.DecodeError:
        return None
    return refusal if refusal.code else None
