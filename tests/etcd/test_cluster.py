"""Three members with TLS, client certificates and a password, as a site with its own etcd would have them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest

from stackpad.errors import Unavailable
from stackpad.etcd import Batch, Etcd, Lost, Put, Snapshot, Tls, Undecided, absent, unchanged
from stackpad.etcd.messages import Nothing, Wire
from tests.etcd.server import BOUND, Certificates, Server, cluster, free_port, running
from tests.etcd.test_watch import Copy

USER, PASSWORD = "stackpad", "correct horse"
EXPIRED = "made-up.1"


@pytest.fixture
async def certificates(tmp_path: Path) -> Certificates:
    """Of one authority."""
    made = Certificates(tmp_path)
    await made.make()
    return made


@pytest.fixture
async def members(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Sequence[Server]]:
    """Three, which answer to the user of the test only; its role has keys of "a/"."""
    async with cluster(tmp_path, 3, certificates) as servers:
        await _protect(servers[0], certificates.client_tls)
        yield servers


class _Users(Wire, frozen=True):
    """What the calls about users and roles take."""

    name: str = ""
    user: str = ""
    role: str = ""
    password: str = ""


class _Grant(Wire, frozen=True):
    name: str
    perm: _Permission


class _Permission(Wire, frozen=True):
    key: bytes
    range_end: bytes
    permType: str


async def _protect(server: Server, tls: Tls | None) -> None:
    async with Etcd([server.url], tls=tls) as etcd:
        for path, message in (
            ("user/add", _Users(name="root", password=PASSWORD)),
            ("role/add", _Users(name="root")),
            ("user/grant", _Users(user="root", role="root")),
            ("user/add", _Users(name=USER, password=PASSWORD)),
            ("role/add", _Users(name="pad")),
            ("role/grant", _Grant("pad", _Permission(b"a/", b"a0", "READWRITE"))),
            ("user/grant", _Users(user=USER, role="pad")),
            ("enable", Nothing()),
        ):
            await etcd._transport.call(f"/v3/auth/{path}", message, Nothing, repeatable=False)


def client(members: Sequence[Server], certificates: Certificates, **more: object) -> Etcd:
    """As a node would be set up."""
    settings = {"tls": certificates.client_tls, "user": USER, "password": PASSWORD} | more
    return Etcd([member.url for member in members], **settings)  # type: ignore[arg-type]


async def test_a_member_dies_under_watch_and_writes(members: Sequence[Server], certificates: Certificates) -> None:
    victim = members[0]  # the one that client and watch are connected to
    async with client(members, certificates) as etcd, client(members, certificates) as writer:
        copy = Copy(etcd, "a/")
        await copy.step()
        written = 0

        async def write() -> None:
            nonlocal written
            kept = 0
            while written < 100:
                try:
                    held = await writer.get("a/counter")
                    kept = held.mod_revision if held else 0
                    if held and int(held.value) == written:  # the write whose answer got lost had happened
                        written += 1
                    else:
                        done = await writer.commit(
                            [unchanged("a/counter", kept)], [Put("a/counter", str(written).encode())]
                        )
                        written += done.succeeded
                except Unavailable:
                    await asyncio.sleep(0.05)
                if written == 30:
                    with contextlib.suppress(ProcessLookupError):
                        victim.signal(signal.SIGKILL)

        async with asyncio.timeout(2 * BOUND), asyncio.TaskGroup() as tasks, contextlib.aclosing(copy.stream):
            tasks.create_task(write())
            seen: list[int] = []
            while 99 not in seen:
                if isinstance(item := await copy.step(), Batch):
                    seen += [int(event.kv.value) for event in item.events if event.kv]
        kv = await etcd.get("a/counter")
        assert kv is not None
        assert (kv.value, kv.version) == (b"99", 100)
    assert seen == list(range(100))
    assert copy.snapshots == 1


async def test_without_a_majority_nothing_hangs(members: Sequence[Server], certificates: Certificates) -> None:
    async with client(members, certificates, timeout=5.0) as etcd:
        copy = Copy(etcd, "a/")
        await copy.step()
        await etcd.put("a/1", b"1")
        await copy.until("a/1", b"1")
        for member in members[1:]:
            await member.stop(signal.SIGKILL)
        with pytest.raises(Unavailable):
            await etcd.put("a/1", b"2")
        # The member that is left keeps the connection: without a leader it must still not be silent for ever.
        while not copy.losses:
            await copy.step()
        for member in members[1:]:
            await member.start()
        await answering_with(etcd)
        await etcd.put("a/2", b"3")
        await copy.until("a/2", b"3")
        await copy.stream.aclose()
        assert copy.snapshots == 1


async def answering_with(etcd: Etcd) -> None:
    async with asyncio.timeout(BOUND):
        while True:
            try:
                await etcd.get("a/")
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def test_a_token_nobody_knows_any_more_is_renewed(members: Sequence[Server], certificates: Certificates) -> None:
    async with client(members, certificates) as etcd:
        await etcd.put("a/1", b"1")
        etcd._transport._token = EXPIRED
        await etcd.put("a/1", b"2")
        etcd._transport._token = EXPIRED
        copy = Copy(etcd, "a/")
        await copy.until("a/1", b"2")
        etcd._transport._token = EXPIRED
        async with asyncio.timeout(BOUND), contextlib.aclosing(etcd.watch("a/", 1)) as watch:
            assert (await anext(watch)).events
        await copy.stream.aclose()


async def test_keys_of_others_are_refused_with_the_user_named(
    members: Sequence[Server], certificates: Certificates
) -> None:
    async with client(members, certificates) as etcd:
        with pytest.raises(Unavailable, match=r"user 'stackpad' \(STORE_USER\) may not touch"):
            await etcd.put("b", b"")
        with pytest.raises(Unavailable, match="permission denied"):
            await anext(etcd.watch("b", 1))


@pytest.mark.parametrize(
    ("more", "remedy"),
    [
        ({"password": "wrong"}, "check STORE_USER, STORE_PASSWORD"),
        ({"user": "", "password": ""}, "set STORE_USER and STORE_PASSWORD"),
    ],
)
async def test_a_wrong_or_missing_password_is_named(
    members: Sequence[Server], certificates: Certificates, more: dict[str, object], remedy: str
) -> None:
    async with client(members, certificates, **more) as etcd:
        with pytest.raises(Unavailable, match=remedy) as caught:
            await etcd.put("a/1", b"")
        assert not isinstance(caught.value, Undecided)
        with pytest.raises(Unavailable, match=remedy):
            await anext(etcd.watch("a/", 1))


async def strangers(directory: Path) -> Certificates:
    """Those of another authority."""
    made = Certificates(directory / "stranger")
    (directory / "stranger").mkdir()
    await made.make()
    return made


async def test_what_is_wrong_with_tls_is_named(
    members: Sequence[Server], certificates: Certificates, tmp_path: Path
) -> None:
    other = await strangers(tmp_path)
    good = certificates.client_tls
    for tls, remedy in (
        (replace(good, ca=other.ca), "set STORE_CA to the file of the authority"),
        (replace(good, certificate=None, key=None), "STORE_CERT and STORE_KEY"),
        (replace(good, certificate=other.client, key=other.client_key), "STORE_CERT"),
        (replace(good, key=other.client_key), r"client\.key \(STORE_KEY\) does not belong"),
        (replace(good, certificate=tmp_path / "none.pem"), r"no file .*/none\.pem, which STORE_CERT names"),
        (replace(good, ca=certificates.client_key), r"client\.key \(STORE_CA\)"),
    ):
        async with client(members, certificates, tls=tls) as etcd:
            with pytest.raises(Unavailable, match=remedy) as caught:
                await etcd.commit([absent("a/1")], [Put("a/1", b"")])
            assert not isinstance(caught.value, Undecided), caught.value


class LostAlert:
    """A way to a member on which its first refusal is overtaken by a reset, as it happens to who has already written."""

    def __init__(self, member: Server) -> None:
        self._port = int(member.url.rpartition(":")[2])
        self._ended: list[asyncio.Event] = []

    @property
    def connections(self) -> int:
        """How many came."""
        return len(self._ended)

    async def ended(self) -> None:
        """Until all of them are closed."""
        for event in self._ended:
            await event.wait()

    async def pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        lossy = not self._ended
        self._ended.append(ended := asyncio.Event())
        hello, flight = asyncio.Event(), asyncio.Event()
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def there() -> None:
            while data := await reader.read(1 << 16):
                if hello.is_set():
                    flight.set()
                other_writer.write(data)
            other_writer.close()

        async def back() -> None:
            while data := await other_reader.read(1 << 16):
                if lossy and flight.is_set():
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
                    break
                hello.set()
                writer.write(data)
            writer.close()

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(there())
                tasks.create_task(back())
        except* ConnectionError:
            pass
        finally:
            for end in (writer, other_writer):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()
            ended.set()


async def test_a_refusal_that_a_reset_overtook_is_named(
    members: Sequence[Server], certificates: Certificates, tmp_path: Path
) -> None:
    other = await strangers(tmp_path)
    tls = replace(certificates.client_tls, certificate=other.client, key=other.client_key)
    way, port = LostAlert(members[0]), free_port()
    async with (
        await asyncio.start_server(way.pair, "127.0.0.1", port),
        Etcd([f"https://127.0.0.1:{port}"], tls=tls) as etcd,
    ):
        with pytest.raises(Unavailable, match=r"refuses our client certificate .* STORE_CERT") as caught:
            await etcd.commit([absent("a/1")], [Put("a/1", b"")])
        assert not isinstance(caught.value, Undecided), caught.value
        assert way.connections == 2
        await way.ended()


async def test_a_renewed_certificate_is_taken_up(members: Sequence[Server], certificates: Certificates) -> None:
    async with client(members, certificates) as etcd:
        await etcd.put("a/1", b"1")
        await certificates.sign(certificates.client, certificates.client_key, "DNS:renewed")
        await etcd.put("a/1", b"2")


async def test_a_certificate_with_a_common_name_is_refused_in_words(
    members: Sequence[Server], certificates: Certificates
) -> None:
    await certificates.sign(certificates.client, certificates.client_key, "DNS:client", "/CN=stackpad")
    async with client(members, certificates) as etcd:
        with pytest.raises(Unavailable, match="STORE_CERT names, since its subject has a CommonName"):
            await etcd.put("a/1", b"1")


async def test_https_and_http_are_not_confused(
    members: Sequence[Server], certificates: Certificates, tmp_path: Path
) -> None:
    async with Etcd([members[0].url.replace("https:", "http:")]) as etcd:
        with pytest.raises(Unavailable, match=r"write https:// in STORE|check whether"):
            await etcd.get("a/")
    async with (
        running(tmp_path / "plain", tcp=True) as plain,
        Etcd([plain.url.replace("http:", "https:")], tls=certificates.client_tls) as etcd,
    ):
        with pytest.raises(Unavailable, match="write http:// in STORE"):
            await etcd.get("a/")


async def test_a_password_nobody_asks_for_is_not_in_the_way(tmp_path: Path) -> None:
    async with running(tmp_path / "open") as server, Etcd([server.url], user=USER, password=PASSWORD) as etcd:
        await etcd.put("a/1", b"1")


async def test_somebody_else_on_the_port_is_told() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(answer, "127.0.0.1", port), Etcd([f"http://127.0.0.1:{port}"]) as etcd:
        with pytest.raises(Unavailable, match="is not etcd's v3 gateway"):
            await etcd.get("a")


def _answer(body: str, *, length: int | None = None, status: str = "200 OK") -> bytes:
    length = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}".encode()


_CUT = _answer("{", length=100)
_ASIDE = _answer("<html>Down for maintenance</html>")
LOGINS = {"cut": (_CUT, "broke"), "stalled": (_CUT, "did not answer within 0.5 s"), "a proxy": (_ASIDE, "is not etcd's")}
"""By what has happened to it, the answer to who says who it is, and what is to be said of that."""


class Forgetful:
    """A store that knows the user the first ``logins`` times, and forgets its token as soon as there is a watch."""

    def __init__(self, happened: str, logins: int) -> None:
        self._login, self._logins, self._stalls = LOGINS[happened][0], logins, happened == "stalled"
        self.asked = list[str]()

    async def pair(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, which has one request."""
        _, path, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
        self.asked.append(path)
        login = path == "/v3/auth/authenticate"
        if login and self._logins:
            self._logins -= 1
            answer = _answer('{"token": "a"}')
        elif login:
            answer = self._login
        elif path == "/v3/kv/range":
            answer = _answer('{"header": {"cluster_id": "1", "revision": "5", "raft_term": "2"}}')
        else:
            answer = _answer('{"code": 16, "message": "etcdserver: invalid auth token"}', status="401 Unauthorized")
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            if login and self._stalls:
                await reader.read()
        writer.close()


@pytest.mark.parametrize("happened", LOGINS)
async def test_who_follows_outlives_a_login_that_breaks(happened: str) -> None:
    store, port = Forgetful(happened, logins=1), free_port()
    async with (
        await asyncio.start_server(store.pair, "127.0.0.1", port),
        Etcd([f"http://127.0.0.1:{port}"], user=USER, password=PASSWORD, timeout=0.5) as etcd,
    ):
        with pytest.raises(Unavailable, match=LOGINS[happened][1]):
            await anext(etcd.watch("a/", 5))
        store._logins = 1
        etcd._transport.forget_token()
        copy = Copy(etcd, "a/")
        async with contextlib.aclosing(copy.stream):
            assert isinstance(await copy.step(), Snapshot)
            lost = await copy.step()
            assert isinstance(lost, Lost)
            assert LOGINS[happened][1] in lost.reason
            store._logins, before = 1000, len(store.asked)
            await copy.step()
            assert "/v3/watch" in store.asked[before:], "it goes on once it is known again"


@pytest.mark.parametrize("happened", LOGINS)
async def test_a_login_that_breaks_leaves_no_doubt_about_the_write_that_it_was_for(happened: str, tmp_path: Path) -> None:
    store, port = Forgetful(happened, logins=0), free_port()
    async with (
        await asyncio.start_server(store.pair, "127.0.0.1", port),
        running(tmp_path / "open") as server,
        Etcd([f"http://127.0.0.1:{port}"], user=USER, password=PASSWORD, timeout=0.5) as alone,
        Etcd([f"http://127.0.0.1:{port}", server.url], user=USER, password=PASSWORD, timeout=0.5) as both,
    ):
        with pytest.raises(Unavailable, match=LOGINS[happened][1]) as caught:
            await alone.commit([absent("a/1")], [Put("a/1", b"")])
        assert not isinstance(caught.value, Undecided), caught.value
        assert await both.put("a/1", b"1") > 0
        assert set(store.asked) == {"/v3/auth/authenticate"}
