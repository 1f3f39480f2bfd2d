"""What a guest says of itself, in the readers that make a place of it, among nodes and ranges that are there."""

from __future__ import annotations

import base64

import msgspec

from plugin.joining import places, tokens
from plugin.model import ip_network
from plugin.ranges import blocks
from plugin.store.mesh import View
from stackpad import jsontext, records
from stackpad.errors import StackpadError
from tests.fuzz.sandbox import sentence

NOW = 1e9
CLUSTER = records.Cluster(
    owner="n1", id="c1", range4="10.192.0.0/10", range6="fd00:1::/48", block_prefix=18, network_prefix=26
)
KEY = base64.b64encode(b"k" * 32).decode()
HELD = [
    records.Range(owner="n1", net="10.192.0.0/18", block=True),
    records.Range(owner="n1", net="fd00:1::/56", block=True),
    records.Range(owner="n2", net="10.192.64.0/18", block=True, freed=NOW - 60, generation=3),
    records.Range(owner="n1", net="10.7.0.0/24", network="a"),
    records.Range(owner="me", net="10.8.0.0/24"),
]
VIEW = View(
    CLUSTER,
    {"n1": records.Node(owner="n1", name="first", public_keys=(KEY,), mesh4="10.192.0.1")},
    frozenset({"n1"}),
    {records.range_key(record.net): record for record in HELD},
)


def place_target(data: bytes) -> None:
    """A request is refused with a sentence, or has a place that no other node has a part of and that all can read.

    It is JSON, or has fields with a zero between, lists with a space: so that what is mutated is a request still.
    """
    try:
        asked = jsontext.decode(data, type=tokens.JoinRequest) if data.startswith(b"{") else _fields(data)
    except msgspec.DecodeError:
        return
    try:
        tokens.refuse_clock(asked.time, NOW)
        node = places.node(asked, "me", NOW)
        places.refuse_name(VIEW, node.name, node.owner)
        places.refuse_key(VIEW, asked.public_key, node.owner)
        own = places.networks(asked)
        chosen = places.ranges(VIEW, HELD, "me", own, CLUSTER, former=asked.former, now=NOW)
    except StackpadError as error:
        sentence(str(error))
        return
    assert records.check(records.decode(records.encode(node), records.Node)) == node
    assert len(chosen) <= places.CLAIMS + 3, "one transaction"
    assert len({record.net for record in chosen}) == len(chosen)
    for record in chosen:
        records.range_key(record.net)
        assert records.check(records.decode(records.encode(record), records.Range)) == record
        net = ip_network(record.net)
        for other in HELD[:2] + HELD[3:4]:
            assert net.version != ip_network(other.net).version or not net.overlaps(ip_network(other.net))
    found = {ip_network(record.net).version for record in chosen if record.block}
    assert found == {4, 6}
    for net in own:
        assert any(blocks.within(net, ip_network(record.net)) for record in chosen)


def _fields(data: bytes) -> tokens.JoinRequest:
    texts = [*data.decode(errors="replace").split("\0"), *[""] * 7]
    name, former, engine, mtu, key, endpoints, ranges = texts[:7]
    return tokens.JoinRequest(
        token="t",  # noqa: S106 - of a test
        digest="d",
        name=name,
        public_key=key or base64.b64encode(b"o" * 32).decode(),
        time=NOW,
        endpoints=tuple(endpoints.split()),
        ranges=tuple(ranges.split()),
        former=former,
        mtu=int(mtu) if mtu.isascii() and mtu.isdigit() and len(mtu) < 9 else 1500,
        engine=engine,
    )
