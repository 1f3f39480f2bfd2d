"""Plans for a WireGuard device, the text wireguard-go is told them in, and keys on disk."""

from __future__ import annotations

import base64
import ipaddress
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugin.model import IPNet, ip_network
from plugin.wireguard import uapi
from plugin.wireguard.keys import Keys, generate, public_key
from plugin.wireguard.model import (
    PATIENCE,
    STALE,
    Address,
    Changes,
    Device,
    Observed,
    Peer,
    PeerChange,
    PeerState,
    failover,
    plan,
)
from stackpad.errors import InvalidRequest, Unavailable


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


HERE: Address = ("192.0.2.1", 51820)
THERE: Address = ("198.51.100.7", 4500)
SIX: Address = ("2001:db8::1", 51820)
NETS = frozenset({ip_network("10.192.64.0/18"), ip_network("fd00:0:0:100::/56")})


def device(*peers: Peer, private: str = key(9), port: int = 51820) -> Device:
    return Device(private, port, {peer.public_key: peer for peer in peers})


def observed(private: str = key(9), port: int = 51820, **peers: PeerState) -> Observed:
    return Observed(private, port, {key(int(name[1:])): state for name, state in peers.items()})


def test_a_device_that_is_right_is_left_alone() -> None:
    one = Peer(key(1), key(8), HERE, NETS, 25)
    there = observed(p1=PeerState(key(8), HERE, NETS, 25, last_handshake=1.0, received=2, sent=3))
    assert not plan(device(one), there, {key(1): HERE})


def test_a_change_names_one_peer_and_one_value() -> None:
    one, two = Peer(key(1), "", HERE, NETS, 25), Peer(key(2), "", THERE)
    there = observed(p1=PeerState("", HERE, NETS), p2=PeerState("", THERE))
    changes = plan(device(one, two), there, {key(1): HERE, key(2): THERE})
    assert changes == Changes(changed=(PeerChange(key(1), keepalive=25),))


def test_what_a_peer_has_moved_to_is_never_overwritten() -> None:
    one = Peer(key(1), "", HERE)
    there = observed(p1=PeerState(endpoint=THERE))
    assert not plan(device(one), there, {key(1): HERE})
    assert plan(device(Peer(key(1), "", SIX)), there, {key(1): HERE}).changed == (PeerChange(key(1), endpoint=SIX),)
    assert not plan(device(Peer(key(1))), there, {})


def test_a_peer_begins_anew_where_it_was_heard_or_where_it_is_to_be_called() -> None:
    one, there = Peer(key(1), key(8), HERE, NETS, 25), PeerState(key(8), THERE, NETS, 25, last_handshake=1.0)
    made = PeerChange(key(1), True, key(8), THERE, NETS, keepalive=25, anew=True)
    assert plan(device(one), observed(p1=there), {key(1): HERE}, {key(1)}).changed == (made,)
    called = PeerChange(key(1), True, key(8), HERE, NETS, keepalive=25, anew=True)
    assert plan(device(one), observed(p1=there), {key(1): SIX}, {key(1)}).changed == (called,)
    assert uapi.request(Changes(changed=(made,))).startswith(
        f"set=1\npublic_key={'01' * 32}\nremove=true\npublic_key={'01' * 32}\npreshared_key={'08' * 32}\n"
    )


A, B, C = (ip_network(f"10.192.{number}.0/24") for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        ("A -", "- A", [PeerChange(key(2), allowed=frozenset({A}))]),
        ("A B", "B A", [PeerChange(key(1), allowed=frozenset({B})), PeerChange(key(2), allowed=frozenset({A}))]),
        ("A -", "AB -", [PeerChange(key(1), allowed=frozenset({A, B}))]),
        ("AB -", "A -", [PeerChange(key(1), allowed=frozenset({A}), only=True)]),
        ("AC -", "- A", [PeerChange(key(2), allowed=frozenset({A})), PeerChange(key(1), allowed=frozenset(), only=True)]),
    ],
    ids=str,
)
def test_a_range_that_moves_is_taken_over_and_is_never_without_a_peer(
    before: str, after: str, steps: list[PeerChange]
) -> None:
    def ranges(text: str) -> list[frozenset[IPNet]]:
        named = {"A": A, "B": B, "C": C}
        return [frozenset(named[letter] for letter in word.strip("-")) for word in text.split()]

    wanted = device(*(Peer(key(number), allowed=nets) for number, nets in enumerate(ranges(after), 1)))
    there = {key(number): PeerState(allowed=nets) for number, nets in enumerate(ranges(before), 1)}
    assert plan(wanted, Observed(key(9), 51820, there), {}).changed == tuple(steps)


def test_a_peer_that_is_not_wanted_goes_and_a_new_one_is_made_whole() -> None:
    changes = plan(device(Peer(key(2), key(8), HERE, NETS, 25)), observed(p1=PeerState()), {})
    assert changes == Changes(gone=(key(1),), changed=(PeerChange(key(2), True, key(8), HERE, NETS, keepalive=25),))


def test_secrets_are_in_no_repr() -> None:
    secret = key(77)
    for value in (
        Peer(key(1), secret),
        device(private=secret),
        PeerState(secret),
        Observed(secret),
        PeerChange(key(1), preshared_key=secret),
        Changes(private_key=secret),
    ):
        assert secret not in repr(value)


NOW = 1_000_000.0
GOOD, OLD = PeerState(last_handshake=NOW - 1), PeerState(last_handshake=NOW - STALE)


@pytest.mark.parametrize(
    ("candidates", "state", "current", "waited", "chosen"),
    [
        ((), None, None, 0.0, None),
        ((HERE, THERE), None, None, 0.0, HERE),
        ((HERE, THERE), GOOD, None, 0.0, None),
        ((HERE, THERE), OLD, None, 0.0, HERE),
        ((HERE, THERE), GOOD, HERE, 100.0, None),
        ((HERE, THERE), OLD, HERE, PATIENCE - 1, None),
        ((HERE, THERE), OLD, HERE, PATIENCE, THERE),
        ((HERE, THERE), OLD, THERE, PATIENCE, HERE),
        ((HERE,), OLD, HERE, 100.0, None),
        ((HERE, THERE), GOOD, SIX, 0.0, HERE),
    ],
)
def test_failover(
    candidates: tuple[Address, ...],
    state: PeerState | None,
    current: Address | None,
    waited: float,
    chosen: Address | None,
) -> None:
    assert failover(candidates, state, current, NOW, NOW - waited) == chosen


@pytest.mark.parametrize(
    ("candidates", "current", "waited", "chosen"),
    [
        ((HERE, THERE), HERE, PATIENCE - 1, None),
        ((HERE, THERE), HERE, PATIENCE, THERE),
        ((HERE, THERE), None, 0.0, HERE),
        ((HERE,), HERE, 100.0, None),
        ((), None, 100.0, None),
    ],
)
def test_a_silent_peer_is_called_elsewhere_if_there_is_another_address(
    candidates: tuple[Address, ...], current: Address | None, waited: float, chosen: Address | None
) -> None:
    assert failover(candidates, GOOD, current, NOW, NOW - waited, silent=True) == chosen


def test_what_wireguard_go_is_told() -> None:
    said = uapi.request(
        Changes(
            private_key=key(1),
            port=51820,
            gone=(key(2),),
            changed=(
                PeerChange(key(3), True, key(4), HERE, NETS, keepalive=25),
                PeerChange(key(5), preshared_key="", endpoint=SIX, allowed=frozenset(), only=True),
                PeerChange(key(6), allowed=NETS),
            ),
        )
    )
    assert said.splitlines() == [
        "set=1",
        f"private_key={'01' * 32}",
        "listen_port=51820",
        f"public_key={'03' * 32}",
        f"preshared_key={'04' * 32}",
        "endpoint=192.0.2.1:51820",
        f"public_key={'03' * 32}",
        "update_only=true",
        "allowed_ip=10.192.64.0/18",
        "allowed_ip=fd00:0:0:100::/56",
        "persistent_keepalive_interval=25",
        f"public_key={'05' * 32}",
        "update_only=true",
        f"preshared_key={'00' * 32}",
        "endpoint=[2001:db8::1]:51820",
        "replace_allowed_ips=true",
        f"public_key={'06' * 32}",
        "update_only=true",
        "allowed_ip=10.192.64.0/18",
        "allowed_ip=fd00:0:0:100::/56",
        f"public_key={'02' * 32}",
        "remove=true",
        "",
    ]
    assert "replace_peers" not in said


@pytest.mark.parametrize(
    "changes",
    [
        Changes(private_key="x"),
        Changes(gone=(base64.b64encode(bytes(31)).decode(),)),
        Changes(port=65536),
        Changes(changed=(PeerChange(key(1), endpoint=("example.org", 1)),)),
        Changes(changed=(PeerChange(key(1), endpoint=("192.0.2.1", 70000)),)),
        Changes(changed=(PeerChange(key(1), endpoint=("192.0.2.1\nprivate_key=00", 1)),)),
        Changes(changed=(PeerChange(key(1), keepalive=-1),)),
    ],
)
def test_nothing_is_said_that_cannot_be(changes: Changes) -> None:
    """A ``set`` is carried out up to the line that is wrong, so none may be."""
    with pytest.raises(InvalidRequest):
        uapi.request(changes)


ANSWER = f"""private_key={"01" * 32}
listen_port=51820
fwmark=7
public_key={"02" * 32}
preshared_key={"03" * 32}
protocol_version=1
endpoint=[2001:db8::1%2]:51820
last_handshake_time_sec=10
last_handshake_time_nsec=500000000
tx_bytes=5
rx_bytes=6
persistent_keepalive_interval=25
allowed_ip=10.192.64.0/18
allowed_ip=fd00:0:0:100::/56
public_key={"04" * 32}
preshared_key={"00" * 32}
something_new=1
errno=0

"""


def test_what_wireguard_go_answers() -> None:
    first = PeerState(key(3), SIX, NETS, 25, last_handshake=10.5, received=6, sent=5)
    assert uapi.read(ANSWER) == Observed(key(1), 51820, {key(2): first, key(4): PeerState()})


@pytest.mark.parametrize("answer", ["", "errno=-22\n\n", ANSWER.replace("errno=0", "errno=1")])
def test_an_answer_that_is_none(answer: str) -> None:
    with pytest.raises(Unavailable):
        uapi.read(answer)


ADDRESSES = st.tuples(st.ip_addresses(), st.integers(0, 65535))
KEYS = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())
RANGES = st.ip_addresses().map(lambda ip: ip_network(str(ipaddress.ip_network(ip))))
PEERS = st.builds(
    Peer,
    public_key=KEYS,
    preshared_key=KEYS.filter(lambda text: text != key(0)),
    endpoint=ADDRESSES.map(lambda pair: (str(pair[0]), pair[1])),
    allowed=st.frozensets(RANGES, max_size=4),
    keepalive=st.integers(0, 65535),
)


@given(st.lists(PEERS, max_size=4, unique_by=lambda peer: peer.public_key), KEYS)
def test_what_is_told_is_what_is_answered(peers: list[Peer], private: str) -> None:
    """The two ends of the protocol are each other's inverse, and then no step is left."""
    wanted = device(*peers, private=private)
    said = uapi.request(plan(wanted, Observed(), {}))
    skipped = ("set=1\n", "replace_allowed_ips=true\n")
    answer = "".join(line for line in said.splitlines(keepends=True) if line not in skipped).strip("\n")
    read = uapi.read(answer + "\nerrno=0\n\n")
    assert not plan(wanted, read, {peer.public_key: peer.endpoint for peer in peers if peer.endpoint})


def test_keys_are_made_once_and_for_root_only(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    path = tmp_path / "keys" / "private.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = Keys(tmp_path / "keys")
    assert (again.private_key, again.public_keys) == (keys.private_key, (public_key(keys.private_key),))


def test_a_key_is_changed_in_three_steps(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    first = keys.private_key
    keys.prepare()
    assert keys.private_key == first
    old, new = keys.public_keys
    assert Keys(tmp_path).public_keys == (old, new), "a restart changes nothing"
    keys.prepare()
    assert keys.public_keys == (old, new), "there is one next key only"
    keys.commit()
    assert keys.private_key == first
    assert keys.changing
    assert keys.public_keys[:1] == keys.public_keys[-1:] == (new,)
    assert Keys(tmp_path).public_keys == (new,), "from here on a restart uses the new one"
    keys.use()
    assert (public_key(keys.private_key), keys.changing) == (new, False)
    assert [path.name for path in tmp_path.iterdir()] == ["private.key"]


def test_an_end_between_the_steps_of_a_commit_leaves_one_key(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    (tmp_path / "next.key").write_text(keys.private_key)
    assert Keys(tmp_path).public_keys == keys.public_keys


@pytest.mark.parametrize("text", ["", "nonsense", base64.b64encode(bytes(31)).decode(), "\udcff"])
def test_a_broken_key_is_told_and_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "private.key"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(Unavailable, match=r"private\.key"):
        Keys(tmp_path)
    assert path.read_text(errors="surrogateescape") == text


def test_a_key_others_could_read_is_closed(tmp_path: Path) -> None:
    Keys(tmp_path)
    (tmp_path / "private.key").chmod(0o644)
    Keys(tmp_path)
    assert stat.S_IMODE((tmp_path / "private.key").stat().st_mode) == 0o600


def test_the_public_key_is_that_of_rfc_7748() -> None:
    """§5.2: nine times the base point, which is nine."""
    nine = base64.b64encode(bytes([9]) + bytes(31)).decode()
    expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert base64.b64decode(public_key(nine)).hex() == expected
    assert generate() != generate()
