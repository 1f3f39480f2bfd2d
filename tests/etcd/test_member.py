"""The embedded member, a real etcd under supervision, in every trouble it can get into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from plugin.store.member import SERVING, Member, Status
from stackpad.errors import InvalidRequest, Unavailable
from stackpad.etcd import Etcd
from tests.etcd.server import BINARY, BOUND, free_port


def made(place: Path, **more: object) -> Member:
    """A member below ``place``."""
    return Member(place / "state", place / "sockets", **{"binary": BINARY, **more})  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(member: Member) -> AsyncIterator[Member]:
    """Supervised meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(member.run())
        try:
            yield member
        finally:
            task.cancel()


async def until(what: Callable[[], bool]) -> None:
    """Wait, within reason."""
    async with asyncio.timeout(BOUND):
        while not what():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.02)


async def settled(member: Member) -> Status:
    async with asyncio.timeout(BOUND):
        return await member.settled()


def child(place: Path) -> int:
    return int((place / "state" / "pid").read_text())


def gone(pid: int) -> bool:
    """No longer, or only as a zombie."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


async def test_it_serves_on_a_unix_socket_that_only_root_can_reach(tmp_path: Path) -> None:
    async with running(made(tmp_path)) as member:
        assert await settled(member) == SERVING
        async with Etcd([member.url]) as etcd:
            await etcd.put("a", b"1")
        pid = child(tmp_path)
        assert _tcp_listeners(pid) == set()
        for directory in ("state", "state/data", "sockets"):
            assert (tmp_path / directory).stat().st_mode & 0o777 == 0o700
    assert gone(pid)
    assert member.status.phase == "failed"
    async with running(made(tmp_path)) as member:
        assert await settled(member) == SERVING
        async with Etcd([member.url]) as etcd:
            kv = await etcd.get("a")
        assert kv is not None


async def test_addresses_come_and_go_while_it_runs(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{free_port()}", f"http://[::1]:{free_port()}"]
    async with running(made(tmp_path)) as member:
        await settled(member)
        async with Etcd([member.url]) as etcd:
            await etcd.put("a", b"1")
        for listen in (urls, urls[:1], []):
            member.listen(listen)
            assert await settled(member) == SERVING
            assert member.starts == 2 + (urls, urls[:1], []).index(listen)
            for url in (*listen, member.url):
                async with Etcd([url]) as etcd:
                    kv = await etcd.get("a")
                assert kv is not None
            assert len(_tcp_listeners(child(tmp_path))) == len(listen)
        member.listen([])
        assert member.status == SERVING


@pytest.mark.parametrize("url", ["https://10.0.0.1:2379", "10.0.0.1:2379", "http://a:1,http://b:1", "http://a:x", ""])
async def test_an_address_that_cannot_be_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequest, match="write http://ADDRESS:PORT"):
        made(tmp_path, listen=[url])


async def test_a_killed_etcd_is_started_again(tmp_path: Path) -> None:
    async with running(made(tmp_path)) as member:
        await settled(member)
        async with Etcd([member.url]) as etcd:
            await etcd.put("a", b"1")
            os.kill(child(tmp_path), signal.SIGKILL)
            await until(lambda: member.starts == 2 and member.status == SERVING)
            kv = await etcd.get("a")
        assert kv is not None


async def test_a_taken_port_is_told_and_used_once_it_is_free(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with running(made(tmp_path, listen=[f"http://127.0.0.1:{port}"])) as member:
            status = await settled(member)
            assert status.phase == "failed"
            assert f"another program listens on 127.0.0.1:{port}" in status.reason
            taken.close()
            await until(lambda: member.status == SERVING)


async def test_an_address_this_node_lacks_is_told_and_may_be_given_up(tmp_path: Path) -> None:
    async with running(made(tmp_path, listen=["http://192.0.2.1:2379"])) as member:
        status = await settled(member)
        assert "cannot listen on 192.0.2.1:2379, since this node does not have that address" in status.reason
        member.listen([])
        assert await settled(member) == SERVING


async def test_a_missing_etcd_is_told(tmp_path: Path) -> None:
    async with running(made(tmp_path, binary="no-such-etcd")) as member:
        status = await settled(member)
    assert status == Status("failed", "there is no program no-such-etcd; install the package etcd-server, or set STORE")


async def test_a_program_that_is_no_etcd_is_told(tmp_path: Path) -> None:
    async with running(made(tmp_path, binary="false")) as member:
        status = await settled(member)
    assert "etcd ended with status 1" in status.reason


async def _filled(place: Path) -> None:
    async with running(made(place)) as member:
        await settled(member)
        async with Etcd([member.url]) as etcd:
            for number in range(20):
                await etcd.put(f"a/{number}", b"x" * 1000)


def _scribble(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)


def _wal(data: Path) -> Path:
    return next((data / "member" / "wal").glob("*.wal"))


def _replace(data: Path) -> None:
    shutil.rmtree(data)
    data.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "log": lambda data: _scribble(_wal(data), 0, 4096),
    "database": lambda data: _scribble(data / "member" / "snap" / "db", 0, 16384),
    "empty log": lambda data: os.truncate(_wal(data), 0),
    "file instead of directory": _replace,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_data_are_told_and_left_alone(tmp_path: Path, damage: str) -> None:
    await _filled(tmp_path)
    data = tmp_path / "state" / "data"
    DAMAGES[damage](data)
    async with running(made(tmp_path)) as member:
        status = await settled(member)
        assert status.phase == "failed"
        assert str(data) in status.reason
        assert "move" in status.reason
        data.rename(tmp_path / "aside")
        await until(lambda: member.status == SERVING)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of some MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a tmpfs")
    place = tmp_path / "small"
    place.mkdir()

    def mount(mib: int) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "small", place], check=True)
        return place

    yield mount
    subprocess.run(["umount", "--lazy", place], check=False)


async def test_a_disk_too_small_is_told(small: Callable[[int], Path]) -> None:
    async with running(made(small(16))) as member:
        status = await settled(member)
    assert "is full: make room there" in status.reason


async def test_a_disk_that_fills_up_is_told_and_recovers_with_room(small: Callable[[int], Path]) -> None:
    place = small(160)
    async with running(made(place)) as member:
        assert await settled(member) == SERVING
        ballast = place / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 65536)
                file.flush()
        async with Etcd([member.url]) as etcd:
            for number in range(1000):
                if member.status.phase == "failed":
                    break
                with contextlib.suppress(Unavailable):
                    await _write(etcd, [f"a/{number}"])
            await until(lambda: "is full" in member.status.reason)
            ballast.unlink()
            await until(lambda: member.status == SERVING)
            await until_writable(etcd)


async def _write(etcd: Etcd, keys: Sequence[str], size: int = 1_000_000) -> None:
    """Values that nothing makes smaller."""
    for key in keys:
        await etcd.put(key, os.urandom(size))


async def test_a_used_up_quota_is_told_and_recovers_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin.store.member._EVERY", 0.5)
    async with running(made(tmp_path, quota=16 << 20)) as member, Etcd([member.url]) as etcd:
        await settled(member)
        with pytest.raises(Unavailable, match="compact and defragment"):
            await _write(etcd, [f"a/{number}" for number in range(1000)], 100_000)
        await until(lambda: member.status.phase == "failed")
        assert "the store is full" in member.status.reason
        assert "of 16 MiB" in member.status.reason
        await etcd.delete_prefix("a/")
        await until(lambda: member.status == SERVING)
        await etcd.put("a", b"1")


async def test_history_does_not_use_up_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old values go as soon as they are in the way; nobody has to do anything."""
    monkeypatch.setattr("plugin.store.member._EVERY", 0.5)
    async with running(made(tmp_path, quota=16 << 20)) as member, Etcd([member.url]) as etcd:
        await settled(member)
        with pytest.raises(Unavailable, match="quota is used up"):
            await _write(etcd, ["a"] * 100)
        await until_writable(etcd)
        assert (await etcd.status()).size < 4 << 20


_PLUGIN = """
import asyncio, sys
from pathlib import Path
from plugin.store.member import Member
from stackpad.runtime import configure_logging

configure_logging("error")

async def main():
    place = Path(sys.argv[1])
    member = Member(place / "state", place / "sockets", binary=sys.argv[2])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(member.run())
        print((await member.settled()).phase, flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def plugin(place: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A member in a process of its own, serving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PLUGIN, place, BINARY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(BOUND):
            assert await process.stdout.readline() == b"serving\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_a_killed_plugin_takes_its_etcd_with_it(tmp_path: Path) -> None:
    async with plugin(tmp_path) as process:
        pid = child(tmp_path)
        process.kill()
        await until(lambda: gone(pid))
    async with running(made(tmp_path)) as member:
        assert await settled(member) == SERVING


async def test_two_plugins_on_one_directory_do_not_fight(tmp_path: Path) -> None:
    async with plugin(tmp_path) as process:
        pid = child(tmp_path)
        async with running(made(tmp_path)) as member:
            status = await settled(member)
            assert "another plugin runs the store" in status.reason
            assert str(tmp_path / "state") in status.reason
            assert not gone(pid)
            process.kill()
            await until(lambda: member.status == SERVING)


async def test_an_etcd_that_outlived_its_plugin_is_ended(tmp_path: Path) -> None:
    """As if the kernel had not told it."""
    async with running(made(tmp_path)) as member:
        await settled(member)
    words = member._command()
    orphan = await asyncio.create_subprocess_exec(
        *words[words.index("--") + 1 :], cwd=tmp_path / "sockets", stderr=asyncio.subprocess.DEVNULL
    )
    try:
        (tmp_path / "state" / "pid").write_text(str(orphan.pid))
        async with Etcd([member.url]) as etcd:
            await until_writable(etcd)
        async with running(made(tmp_path)) as member:
            assert await settled(member) == SERVING
            assert await orphan.wait() == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            orphan.kill()
        await orphan.wait()


async def until_writable(etcd: Etcd) -> None:
    async with asyncio.timeout(BOUND):
        while True:
            with contextlib.suppress(Unavailable):
                await etcd.put("a", b"1")
                return
            await asyncio.sleep(0.05)


async def test_a_foreign_process_with_the_old_number_is_spared(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "pid").write_text(str(os.getpid()))
    async with running(made(tmp_path)) as member:
        assert await settled(member) == SERVING


async def test_a_wiped_store_has_another_identity(tmp_path: Path) -> None:
    origins = []
    for _ in range(2):
        async with running(made(tmp_path)) as member:
            await settled(member)
            async with Etcd([member.url]) as etcd:
                origins.append((await etcd.list("a")).origin.cluster)
        shutil.rmtree(tmp_path / "state" / "data")
    assert origins[0] != origins[1]


def _tcp_listeners(pid: int) -> set[str]:
    """Sockets of TCP that ``pid`` listens on, from proc(5)."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1])
    return found
