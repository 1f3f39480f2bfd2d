"""Who comes into a cluster and who leaves it while something else happens: with a real store, and no tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from plugin.cluster.admission import Admission
from plugin.cluster.cluster import Cluster
from plugin.cluster.rotation import Rotation
from plugin.joining import service as joinservice
from plugin.joining import tokens
from plugin.joining.guests import Guests, Invitation
from plugin.joining.service import JoinService
from plugin.store.loop import StoreLoop
from plugin.store.membership import Memory
from plugin.store.view import StoreView
from plugin.wireguard.keys import generate, public_key
from stackpad import files, records
from stackpad.errors import Conflict, InvalidRequest, Unavailable
from stackpad.etcd import Compare, Delete, Etcd, Get, Op, Outcome, Put
from tests.etcd.server import BOUND, Server, running
from tests.etcd.test_membership import CONTROL, Node
from tests.netns import eventually

OTHERS, CONTROLS, STRANGERS = (public_key(generate()) for _ in range(3))
GIVEN = Invitation(id="t", digest="d", public_key="k", preshared_key="p", address="127.0.0.1", expires=time.time() + 3600)
ASKED = tokens.JoinRequest(token="t", digest="d", name="worker", public_key=OTHERS, time=time.time())  # noqa: S106
WORKER = records.Node(owner="n1", name="worker", public_keys=(OTHERS,), mesh4="10.192.64.1", mesh6="fd00:0:0:100::1")
BLOCK = records.Range(owner="n1", net="10.192.64.0/18", block=True)


async def there(etcd: Etcd, prefix: str) -> dict[str, bytes]:
    return {kv.key: kv.value for kv in (await etcd.list(prefix)).items}


class Door:
    """A node that lets others in, and what happens there at some moment."""

    def __init__(self, etcd: Etcd, directory: Path) -> None:
        self.etcd, self.guests, seen = etcd, Guests(directory), StoreView()
        self.guests.add(GIVEN, 0.0)
        self.store = StoreLoop(etcd, Memory(directory), seen, CONTROL.node, lambda: None, lambda _: None)
        self.service = JoinService(
            lambda: CONTROL, lambda: WORKER, seen.view, self.guests, self.store, ("http://127.0.0.1:1",), self._observed
        )

    async def _observed(self, _: str) -> str:
        return "192.0.2.7"

    async def ask(self, **changes: Any) -> tuple[int, dict[str, Any]]:
        """What a guest is answered."""
        body = msgspec.json.encode(msgspec.structs.replace(ASKED, time=time.time(), **changes))
        async with TestClient(TestServer(self.service.application())) as client:
            answer = await client.post("/join", data=body)
            return answer.status, msgspec.json.decode(await answer.read())

    async def places(self) -> tuple[list[str], list[records.Range]]:
        """Nodes in the store, and ranges that are held there."""
        held = records.readable((await there(self.etcd, records.RANGES)).values(), records.Range)
        return list(await there(self.etcd, records.NODES)), [one for one in held if not one.freed]


@pytest.fixture
async def door(etcd: Etcd, tmp_path: Path) -> Door:
    return Door(etcd, tmp_path)


def after(method: Callable[..., Awaitable[Any]], do: Callable[[], object]) -> Callable[..., Awaitable[Any]]:
    """``method``, and then something else, the first time."""
    left = [do]

    async def both(*arguments: Any) -> Any:
        done = await method(*arguments)
        if left:
            left.pop()()
        return done

    return both


def no_room(*_: object) -> None:
    raise Unavailable("no room")


@pytest.mark.parametrize("moment", ["claim", "commit"])
@pytest.mark.parametrize("how", ["remove", "void"])
async def test_a_token_that_is_taken_back_while_its_node_comes_in(
    door: Door, monkeypatch: pytest.MonkeyPatch, moment: str, how: str
) -> None:
    """Nobody is in, and nothing is held for nobody; a used token, though, does not depend on the key that it names."""
    take_back = (lambda: door.guests.remove("t")) if how == "remove" else door.guests.void
    whose = door.store.ranges if moment == "claim" else door.store
    monkeypatch.setattr(whose, moment, after(getattr(whose, moment), take_back))
    status, said = await door.ask()
    if (how, moment) == ("void", "commit"):
        assert status == 200
        return
    assert (status, said["error"]) == (400, "the token was taken back just now; make a new one with stackpad node token")
    assert await door.places() == ([], [])
    assert await there(door.etcd, records.RANGES) == {}, "nor does anything cool down"
    assert door.guests.peers(0.0) == []


async def test_a_token_is_for_one_node(door: Door) -> None:
    status, answer = await door.ask()
    assert status == 200
    nodes, held = await door.places()
    assert nodes == [records.key(records.NODES, answer["node"])]
    assert {one.owner for one in held} == {answer["node"]}
    assert (await door.ask())[1]["node"] == answer["node"], "whose first answer got lost asks once more"
    assert (await door.places())[1] == held, "and has what it had, though the view does not know of it yet"
    status, said = await door.ask(public_key=STRANGERS, name="another")
    assert status == 400
    assert "used already" in said["error"]
    with pytest.raises(Conflict, match="is in with it"):
        door.guests.remove("t")


async def test_nobody_is_given_what_the_node_here_has_itself(door: Door) -> None:
    """Its own records may not be in the store yet: they are written by somebody else."""
    status, answer = await door.ask()
    assert (status, answer["mesh4"]) == (200, "10.192.64.1")
    assert [net["net"] for net in answer["ranges"]] == ["10.192.64.0/18", "fd00::/56"]


async def test_who_was_seen_as_a_member_is_told_nothing_once_more(door: Door, tmp_path: Path) -> None:
    """The token was found, and its node is off: its public key is no secret."""
    assert (await door.ask())[0] == 200
    (node,), _ = await door.places()
    door.guests.meet({node.removeprefix(records.NODES)})
    for guests in (door.guests, Guests(tmp_path)):
        with pytest.raises(InvalidRequest, match="used already"):
            guests.check(ASKED, GIVEN.address, ())
    assert (await door.ask())[0] == 400


async def test_a_node_that_gives_a_sign_of_life_has_used_up_its_token(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, _, etcd):
        used = msgspec.structs.replace(GIVEN, used_by=OTHERS, node="n1", admitted=True)
        cluster.guests.add(used, 0.0)
        assert cluster.guests.check(ASKED, GIVEN.address, ()) == used, "its answer may have got lost"
        await etcd.put(records.key(records.ALIVE, "n1"), records.encode(records.Alive(owner="n1")))
        kept = tmp_path / "node" / "lib" / "stackpad"
        await eventually(lambda: Guests(kept)._all["t"].member, "it to be seen, and kept on the disk")
        await etcd.delete(records.key(records.ALIVE, "n1"))
        with pytest.raises(InvalidRequest, match="used already, by node n1"):
            cluster.guests.check(ASKED, GIVEN.address, ())


REFUSED: list[dict[str, Any]] = [
    {"digest": "e"}, {"token": "another"}, {"name": "a b"}, {"public_key": "a2tr"}, {"mtu": -1},
    {"ranges": ("fd00:3::%x/64",)}, {"ranges": ("::/0",)}, {"ranges": ("10.1.0.0/24",) * 2000},
    {"ranges": tuple(f"172.16.{n}.0/24" for n in range(200))}, {"endpoints": ("[fe80::1%eth0]:1",)},
    {"engine": "\x1b[2J"}, {"name": "n" * 70_000},
]  # fmt: skip


async def test_who_is_refused_leaves_nothing(door: Door) -> None:
    for changes in REFUSED:
        status, said = await door.ask(**changes)
        assert status in {400, 409}, changes
        assert said["error"].isprintable()
        assert await there(door.etcd, records.ROOT) == {}, changes
    assert (await door.ask())[0] == 200, "and the token is as good as before"


async def test_a_disk_that_is_full_costs_no_ranges(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(files, "replace", no_room)
        for _ in range(3):
            status, said = await door.ask()
            assert (status, said["error"]) == (503, "no room")
    assert await door.places() == ([], [])
    assert (await door.ask())[0] == 200


async def test_a_guest_that_asks_for_much_at_once_has_one_place(door: Door) -> None:
    answers = await asyncio.gather(*(door.ask() for _ in range(20)))
    assert {status for status, _ in answers} <= {200, 429}
    well = [answer for status, answer in answers if status == 200]
    nodes, held = await door.places()
    assert {records.key(records.NODES, answer["node"]) for answer in well} == set(nodes)
    assert len(nodes) == 1
    assert len(held) == 2


async def test_who_would_wait_too_long_is_told(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joinservice, "TURN", 0.1)
    async with door.service._one_at_a_time:
        status, said = await door.ask()
    assert (status, "the store takes long" in said["error"]) == (503, True)
    assert await door.places() == ([], [])
    assert (await door.ask())[0] == 200


@contextlib.asynccontextmanager
async def member(directory: Path, server: Server) -> AsyncIterator[tuple[Cluster, Admission, Etcd]]:
    """The first node of a cluster whose store is elsewhere, with another node beside it."""
    async with contextlib.AsyncExitStack() as stack:
        node = Node(directory, stack)
        node.memory.save(msgspec.structs.replace(CONTROL, store=(server.url,)))
        etcd = await stack.enter_async_context(Etcd([server.url]))
        beside: Sequence[tuple[str, records.Record]] = (
            (
                records.key(records.NODES, CONTROL.node),
                records.Node(owner=CONTROL.node, name="control", public_keys=("c",)),
            ),
            (records.range_key(CONTROL.ranges[0].net), CONTROL.ranges[0]),
            (records.key(records.NODES, "n1"), WORKER),
            (records.range_key(BLOCK.net), BLOCK),
        )
        for key, record in beside:
            await etcd.put(key, records.encode(record))
        cluster, admission, *_ = await node.start(server.url)
        await node.run(cluster)
        await cluster.wait_for_store(BOUND)
        yield cluster, admission, etcd


async def test_a_node_that_leaves_while_it_removes_another_does_one_after_the_other(tmp_path: Path) -> None:
    """What is to be freed of the other is known from the view, which a node that leaves forgets."""
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        async with asyncio.TaskGroup() as tasks:
            removing = tasks.create_task(admission.remove("worker"))
            await asyncio.sleep(0)
            leaving = tasks.create_task(admission.leave())
        assert (removing.result(), leaving.result()) == (True, True)
        assert cluster.membership is None
        assert await there(etcd, records.NODES) == {}
        ranges = records.readable((await there(etcd, records.RANGES)).values(), records.Range)
        assert {one.net for one in ranges if one.freed} == {BLOCK.net, CONTROL.ranges[0].net}
        assert set(await there(etcd, records.REMOVED)) == {records.key(records.REMOVED, name) for name in ("n0", "n1")}


async def test_a_node_that_sees_that_it_has_left_before_it_is_answered_waits_for_the_answer(tmp_path: Path) -> None:
    """Else its connection to the store ends under it, and it says that nothing was freed."""
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        store = cluster.store
        assert store is not None
        mine = records.Node(owner=CONTROL.node, name="control", public_keys=("c",))
        written = {records.key(records.NODES, CONTROL.node): mine}
        cluster.presence.records = lambda membership: written if membership else None  # type: ignore[method-assign]
        commit = store.commit
        stayed: list[bool] = []

        async def slowly(operations: Sequence[Put | Delete | Get]) -> None:
            await commit(operations)
            async with asyncio.timeout(BOUND):
                while CONTROL.node not in cluster._seen.view().removed and cluster.membership is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            # Long enough for this node to write its records, if it would; and the store is not to have them again.
            store.touch()
            await asyncio.sleep(1.0)
            stayed.append(cluster.membership is not None)

        await admission.remove("worker")
        store.commit = slowly  # type: ignore[method-assign]
        assert await admission.leave() is True
        assert stayed[-1], "it was a member until it was answered"
        assert cluster.membership is None
        assert await there(etcd, records.NODES) == {}
        ranges = records.readable((await there(etcd, records.RANGES)).values(), records.Range)
        assert all(one.freed for one in ranges)
        assert set(await there(etcd, records.REMOVED)) == {records.key(records.REMOVED, name) for name in ("n0", "n1")}


async def test_a_record_that_is_on_its_way_when_a_node_leaves_is_not_the_last_word(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        store = cluster.store
        assert store is not None
        await admission.remove("worker")
        mine = records.Node(owner=CONTROL.node, name="another", public_keys=("c",))
        written = {records.key(records.NODES, CONTROL.node): mine}
        commit, under_way, goes_on = store._etcd.commit, asyncio.Event(), asyncio.Event()
        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:

            async def late(operations: Sequence[Op]) -> Outcome:
                under_way.set()
                await goes_on.wait()
                return await etcd.commit((), operations)

            async def held(compares: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> Outcome:
                if any(isinstance(each, Put) and each.key in written for each in success):
                    # It is sent, whatever becomes of who waits for the answer.
                    return await asyncio.shield(tasks.create_task(late(success)))
                return await commit(compares, success, failure)

            store._etcd.commit = held  # type: ignore[method-assign]
            cluster.presence.records = lambda membership: written if membership else None  # type: ignore[method-assign]
            store.touch()
            await under_way.wait()
            leaving = tasks.create_task(admission.leave())
            await asyncio.sleep(0.5)
            goes_on.set()
            assert await leaving is True
        assert await there(etcd, records.NODES) == {}


@pytest.mark.parametrize("noticed", [False, True])
async def test_a_node_that_leaves_without_its_store_says_so(tmp_path: Path, noticed: bool) -> None:
    """Whether it knew that the store is away or learns it by this."""
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        await server.stop()
        if noticed:
            async with asyncio.timeout(BOUND):
                while cluster.store is not None and cluster.store.connected.is_set():  # noqa: ASYNC110 - what is asked has no event
                    await asyncio.sleep(0.02)
            with pytest.raises(Unavailable):
                await admission.remove("worker")
        assert await admission.leave() is False
        assert cluster.membership is None
        await server.start()
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    nodes = await there(etcd, records.NODES)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert set(nodes) == {records.key(records.NODES, name) for name in ("n0", "n1")}, "nothing was freed there"


async def test_what_changes_the_membership_or_the_key_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """Each of them would be refused at once here, for the membership cannot be read."""
    async with contextlib.AsyncExitStack() as stack:
        node = Node(tmp_path, stack)
        (node.settings.state_file.parent / "membership.json").write_text("{")
        cluster, admission, *_ = await node.start()
        asked = [
            admission.init(""),
            admission.token(60.0),
            admission.join("stackpad-1-x", "", lambda _: None),
            admission.remove("other"),
            admission.leave(),
            Rotation(cluster).run(lambda _: None),
        ]
        async with cluster.changing:
            tasks = [asyncio.ensure_future(one) for one in asked]
            for _ in range(50):
                await asyncio.sleep(0)
            assert not any(task.done() for task in tasks)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, Conflict | Unavailable) for error in ended), ended


async def test_a_removed_node_that_takes_its_tombstone_away_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its records again, too; the control node writes the tombstone again, for those who come later."""
    monkeypatch.setattr("plugin.cluster.presence.version", lambda _: "0")  # nothing is installed here
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        tombstone = records.key(records.REMOVED, "n1")
        cluster._reconciler.ready.set()  # from then on it writes its own records
        assert await admission.remove("worker") is True
        async with asyncio.timeout(BOUND):
            while cluster.stored(tombstone) is None:  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.02)
        place = records.key(records.NODES, "n1")
        await etcd.commit((), [Delete(tombstone), Put(place, records.encode(WORKER))])
        async with asyncio.timeout(BOUND):
            while await etcd.get(tombstone) is None or cluster.stored(place) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert cluster.view.removed == {"n1"}
        wanted = cluster._wanted()
        assert wanted is not None
        assert not wanted.plan.peers


async def test_a_node_that_says_it_holds_the_store_is_removed_all_the_same(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as server, member(tmp_path / "node", server) as (cluster, admission, etcd):
        assert cluster.membership is not None
        # Its address in the mesh is that of the store, as far as it says.
        address = msgspec.structs.replace(cluster.membership, store=(f"http://{WORKER.mesh4}:2379",))
        cluster.membership = address
        key = records.key(records.NODES, "n1")
        await etcd.put(key, records.encode(msgspec.structs.replace(WORKER, control=True)))
        async with asyncio.timeout(BOUND):
            while not cluster.view.nodes["n1"].control:  # noqa: ASYNC110 - what is asked has no event
                await asyncio.sleep(0.02)
        assert await admission.remove("worker") is True
