"""Questions and answers as bytes."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import random
import struct
from collections.abc import Iterator
from unittest import mock

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugin.resolver import cache, wire
from plugin.resolver.wire import PAYLOAD, TTL, Answerer, Verdict
from plugin.resolver.zone import Environment, Replica, View

CLIENT, OTHER, STRANGER = "10.1.0.9", "10.2.0.9", "10.3.0.9"


def replica(container: str, *addresses: str, ports: tuple[tuple[int, str], ...] = ()) -> Replica:
    return Replica(container, tuple(map(ipaddress.ip_address, addresses)), ports)


DB = replica("db-1", "10.1.0.2", "fd00::2", ports=((5432, "tcp"),))
WEB = tuple(replica(f"web-{n}", f"10.1.0.{n}") for n in range(10, 15))
MANY = tuple(replica(f"many-{n}", f"10.1.{n // 250}.{n % 250}", ports=((80, "tcp"),)) for n in range(300))
# Docker allows a container's name that DNS does not.
ODD = replica("a..b", "10.1.0.99", ports=((80, "tcp"),))
SHOP = Environment(
    "shop-production",
    {"db": (DB,), "web": WEB, "many": MANY, "odd": (ODD, DB), "a.dotted_name": (DB,)},
    frozenset({"worker"}),
    {DB.addresses[0]: "db-1", DB.addresses[1]: "db-1", ODD.addresses[0]: "a..b"},
)
BLOG = Environment("blog-test", {"cms": (replica("cms-1", "10.2.0.2"),)})
CLOSED = Environment("closed-test", internal=True)
VIEW = View(
    {CLIENT: ("shop-production",), OTHER: ("blog-test",), "10.4.0.9": ("closed-test",)},
    {there.name: there for there in (SHOP, BLOG, CLOSED)},
)


def ask(
    name: str, kind: str = "A", *, client: str = CLIENT, stream: bool = False, answerer: Answerer | None = None
) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    answer = (answerer or Answerer(VIEW)).answer(query.to_wire(), client, stream=stream)
    assert isinstance(answer, bytes)
    response = dns.message.from_wire(answer)
    assert query.is_response(response)
    return response


def records(response: dns.message.Message) -> set[str]:
    return {record.to_text() for rrset in response.answer for record in rrset}


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("db", "A", {"10.1.0.2"}),
        ("db", "AAAA", {"fd00::2"}),
        ("db.shop-production", "A", {"10.1.0.2"}),
        ("a.dotted_name.shop-production", "A", {"10.1.0.2"}),
        ("web", "A", {f"10.1.0.{n}" for n in range(10, 15)}),
        ("db", "SRV", {"0 1 5432 db-1.shop-production."}),
        ("_postgres._tcp.db", "SRV", {"0 1 5432 db-1.shop-production."}),
        ("odd", "SRV", {"0 1 5432 db-1.shop-production."}),
        ("2.0.1.10.in-addr.arpa", "PTR", {"db-1.shop-production."}),
        (dns.name.from_text("2" + ".0" * 29 + ".d.f.ip6.arpa").to_text(), "PTR", {"db-1.shop-production."}),
    ],
)
def test_found(name: str, kind: str, found: set[str]) -> None:
    response = ask(name, kind)
    assert records(response) == found
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & (dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.AA | dns.flags.TC) == (
        dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.AA
    )
    assert {rrset.ttl for rrset in response.answer} == {TTL}


def test_services_come_with_their_addresses() -> None:
    additional = {(str(rrset.name), record.to_text()) for rrset in ask("db", "SRV").additional for record in rrset}
    assert additional == {("db-1.shop-production.", "10.1.0.2"), ("db-1.shop-production.", "fd00::2")}


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "owner"),
    [
        ("web", "AAAA", dns.rcode.NOERROR, "web."),
        ("db", "TXT", dns.rcode.NOERROR, "db."),
        ("db", "HTTPS", dns.rcode.NOERROR, "db."),
        ("_postgres._udp.db", "SRV", dns.rcode.NOERROR, "_postgres._udp.db."),
        ("_postgres._tcp.db", "A", dns.rcode.NOERROR, "_postgres._tcp.db."),
        ("99.0.1.10.in-addr.arpa", "PTR", dns.rcode.NOERROR, "99.0.1.10.in-addr.arpa."),
        ("worker", "A", dns.rcode.NXDOMAIN, "."),
        ("nobody.shop-production", "A", dns.rcode.NXDOMAIN, "shop-production."),
    ],
)
def test_nothing(name: str, kind: str, rcode: dns.rcode.Rcode, owner: str) -> None:
    response = ask(name, kind)
    assert (response.rcode(), response.answer) == (rcode, [])
    (soa,) = response.authority
    assert (str(soa.name), soa.rdtype, soa.ttl, soa[0].minimum) == (owner, dns.rdatatype.SOA, TTL, TTL)
    assert response.flags & dns.flags.AA


@pytest.mark.parametrize("name", [".", "example.org", "9.9.9.9.in-addr.arpa"])
def test_nothing_leaves_an_internal_environment(name: str) -> None:
    assert ask(name, "PTR" if "arpa" in name else "NS", client="10.4.0.9").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("name", ["nobody", "example.org", "cms", "cms.blog-test", "2.0.2.10.in-addr.arpa", "."])
def test_forwarded(name: str) -> None:
    query = dns.message.make_query(name, "PTR" if "arpa" in name else "A").to_wire()
    assert Answerer(VIEW).answer(query, CLIENT) is Verdict.FORWARD


@pytest.mark.parametrize("name", ["db", "db.shop-production", "worker", "2.0.1.10.in-addr.arpa"])
@pytest.mark.parametrize("client", [OTHER, STRANGER])
def test_a_name_of_others_is_as_an_unknown_one(name: str, client: str) -> None:
    answerer = Answerer(VIEW)
    assert answerer.answer(dns.message.make_query(name, "A").to_wire(), CLIENT) is not Verdict.DROP
    assert answerer.answer(dns.message.make_query(name, "A").to_wire(), client) is Verdict.FORWARD


def test_what_is_passed_on_is_remembered_until_it_is_known() -> None:
    answerer, query = Answerer(VIEW), dns.message.make_query("new", "A").to_wire()
    assert [answerer.answer(query, CLIENT) for _ in range(2)] == [Verdict.FORWARD] * 2
    assert answerer.hits == 1
    shop = Environment("shop-production", {"new": (DB,)})
    answerer.update(View(VIEW.clients, {**VIEW.environments, "shop-production": shop}))
    assert isinstance(answerer.answer(query, CLIENT), bytes)
    assert answerer.answer(query, STRANGER) is Verdict.FORWARD


def test_any_is_answered_with_one_kind() -> None:
    assert records(ask("db", "ANY")) == {"10.1.0.2"}


def test_spelling_is_kept() -> None:
    response = ask("dB.Shop-PRODUCTION")
    assert response.question[0].name.to_text() == response.answer[0].name.to_text() == "dB.Shop-PRODUCTION."


def test_orders_differ() -> None:
    answerer = Answerer(VIEW)
    orders = {tuple(r.to_text() for r in ask("web", answerer=answerer).answer[0]) for _ in range(100)}
    assert 1 < len(orders) <= cache.VARIANTS
    assert answerer.hits == 100 - cache.VARIANTS


@pytest.mark.parametrize("kind", ["A", "SRV"])
@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (100, 512), (600, 600), (1232, PAYLOAD), (65535, PAYLOAD)])
def test_what_does_not_fit_is_cut(payload: int | None, limit: int, kind: str) -> None:
    query = dns.message.make_query("many", kind, use_edns=None if payload is None else 0, payload=payload or 0)
    answer = Answerer(VIEW).answer(query.to_wire(), CLIENT)
    assert isinstance(answer, bytes)
    assert len(answer) <= limit
    response = dns.message.from_wire(answer)
    assert response.flags & dns.flags.TC
    # Half of what fits or more: something to go on with.
    assert len(answer) > limit / 3
    assert len(response.answer[0]) >= 3


@pytest.mark.parametrize("kind", ["A", "SRV"])
def test_nothing_is_cut_from_a_stream(kind: str) -> None:
    response = ask("many", kind, stream=True)
    assert len(records(response)) == 300
    assert not response.flags & dns.flags.TC


def test_of_very_many_each_answer_has_some() -> None:
    crowd = tuple(replica(f"c{n}", f"10.{n // 65536}.{n // 256 % 256}.{n % 256}") for n in range(5000))
    view = View({CLIENT: ("e-1",)}, {"e-1": Environment("e-1", {"crowd": crowd})})
    response = ask("crowd", stream=True, answerer=Answerer(view))
    assert len(records(response)) == wire.MOST
    assert not response.flags & dns.flags.TC


@pytest.mark.parametrize("kind", ["A", "SRV"])
@pytest.mark.parametrize(("stream", "most"), [(False, wire.MOST_DATAGRAM), (True, wire.MOST)])
def test_no_more_records_are_made_than_are_answered(
    kind: str, stream: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand replicas that declare 64 ports each are 64,000 services."""
    made = [mock.Mock(side_effect=getattr(wire, name)) for name in ("_A", "_SRV")]
    for name, counted in zip(("_A", "_SRV"), made, strict=True):
        monkeypatch.setattr(wire, name, counted)
    ports = tuple((n, "tcp") for n in range(1, 65))
    crowd = tuple(replica(f"c{n}", f"10.1.{n // 256}.{n % 256}", ports=ports) for n in range(1500))
    answerer = Answerer(View({CLIENT: ("e-1",)}, {"e-1": Environment("e-1", {"crowd": crowd})}))
    answer = answerer.answer(dns.message.make_query("crowd", kind).to_wire(), CLIENT, stream=stream)
    assert isinstance(answer, bytes)
    assert bool(answer[2] & 2) != stream  # a datagram is marked as cut
    assert most <= sum(counted.call_count for counted in made) == answerer.records <= 2 * most


def test_edns() -> None:
    query = dns.message.make_query("db", "A", want_dnssec=True, payload=4096)
    query.use_edns(0, query.ednsflags, 4096, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")])
    answer = Answerer(VIEW).answer(query.to_wire(), CLIENT)
    assert isinstance(answer, bytes)
    response = dns.message.from_wire(answer)
    assert (response.edns, response.payload, response.options) == (0, PAYLOAD, ())
    assert response.ednsflags & dns.flags.DO
    plain = Answerer(VIEW).answer(dns.message.make_query("db", "A").to_wire(), CLIENT)
    assert isinstance(plain, bytes)
    assert dns.message.from_wire(plain).edns == -1


def test_edns_of_another_version() -> None:
    query = dns.message.make_query("db", "A", use_edns=1)
    answer = Answerer(VIEW).answer(query.to_wire(), CLIENT)
    assert isinstance(answer, bytes)
    assert dns.message.from_wire(answer).rcode() == dns.rcode.BADVERS


def _changed(query: dns.message.Message, rcode: dns.rcode.Rcode) -> None:
    answer = Answerer(VIEW).answer(query.to_wire(), CLIENT)
    assert isinstance(answer, bytes)
    response = dns.message.from_wire(answer)
    assert (response.id, response.rcode(), response.opcode()) == (query.id, rcode, query.opcode())
    assert response.flags & dns.flags.QR


@pytest.mark.parametrize("opcode", [dns.opcode.STATUS, dns.opcode.NOTIFY, dns.opcode.UPDATE, dns.opcode.IQUERY])
def test_other_operations(opcode: dns.opcode.Opcode) -> None:
    query = dns.message.make_query("db", "A")
    query.set_opcode(opcode)
    _changed(query, dns.rcode.NOTIMP)


@pytest.mark.parametrize("kind", ["AXFR", "IXFR", "TKEY", "TSIG", "OPT", "MAILB"])
def test_refused_kinds(kind: str) -> None:
    _changed(dns.message.make_query("db", kind), dns.rcode.REFUSED)


@pytest.mark.parametrize("rdclass", ["CH", "HS", "ANY"])
def test_refused_classes(rdclass: str) -> None:
    _changed(dns.message.make_query("version.bind", "TXT", rdclass), dns.rcode.REFUSED)


@pytest.mark.parametrize("count", [0, 2])
def test_one_question_at_a_time(count: int) -> None:
    query = dns.message.make_query("db", "A")
    query.question = query.question * count
    _changed(query, dns.rcode.FORMERR)


@pytest.mark.parametrize(
    "query",
    [b"", b"\0" * 11, dns.message.make_response(dns.message.make_query("db", "A")).to_wire()],
    ids=["nothing", "short", "answer"],
)
def test_dropped(query: bytes) -> None:
    assert Answerer(VIEW).answer(query, CLIENT) is Verdict.DROP


def _sound(query: bytes, answerer: Answerer) -> None:
    for client, stream in itertools.product((CLIENT, STRANGER), (False, True)):
        answer = answerer.answer(query, client, stream=stream)
        if isinstance(answer, bytes):
            assert answer[:2] == query[:2]
            assert answer[2] & 0x80
            assert len(answer) <= (65535 if stream else PAYLOAD)
        else:
            assert (answer is Verdict.DROP) == (len(query) < 12 or bool(query[2] & 0x80))
    failed = wire.failure(query)
    assert failed is None or failed[:2] == query[:2]


@given(st.binary(max_size=200))
def test_any_bytes(query: bytes) -> None:
    _sound(query, Answerer(VIEW))


def test_mutated_questions() -> None:
    seeds = [
        dns.message.make_query(name, kind, use_edns=edns, want_dnssec=bool(edns), payload=1400).to_wire()
        for name in ("db", "many.shop-production", "2.0.1.10.in-addr.arpa", "_x._tcp.db", "www.example.org")
        for kind in ("A", "SRV", "PTR", "ANY")
        for edns in (False, 0)
    ]
    dice = random.Random(53)  # noqa: S311
    answerer = Answerer(VIEW)
    for _ in range(6000):
        query = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            query[dice.randrange(len(query))] = dice.randrange(256)
        cut = dice.choice((len(query), len(query), dice.randrange(len(query))))
        _sound(bytes(query[:cut]) + dice.randbytes(dice.choice((0, 0, 5))), answerer)


@contextlib.contextmanager
def reading() -> Iterator[list[bytes]]:
    """What dnspython is given to read meanwhile."""
    given, reads = list[bytes](), dns.message.from_wire

    def from_wire(data: bytes) -> dns.message.Message:
        given.append(data)
        return reads(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dns.message, "from_wire", from_wire)
        yield given


@pytest.fixture
def read() -> Iterator[list[bytes]]:
    with reading() as given:
        yield given


def _costly(size: int, records: int) -> bytes:
    """A question with a name of 120 labels, and as many records as fit whose names are references to it."""
    name = b"\1a" * 120 + b"\0"
    start = struct.pack("!6H", 1, 0x0100, 1, 0, records, 0) + name + struct.pack("!2H", 1, 1)
    record = b"\xc0\x0c" + struct.pack("!2HIH", 2, 1, 0, 2) + b"\xc0\x0c"
    return (start + record * records)[:size]


@pytest.mark.parametrize("size", [1205, 65535])
def test_a_question_with_records_is_refused_before_it_is_read(size: int, read: list[bytes]) -> None:
    query = _costly(size, (size - 260) // 14)
    for stream in (False, True):
        answer = Answerer(VIEW).answer(query, CLIENT, stream=stream)
        assert answer == b"\0\1\x81\x81" + bytes(8)  # FORMERR, nothing but the header
    assert wire.failure(query) is None
    assert read == []


def _counted(counts: tuple[int, int, int, int], behind: bytes = b"") -> bytes:
    return struct.pack("!6H", 7, 0x0100, *counts) + b"\2db\0\0\1\0\1" + behind


@pytest.mark.parametrize(
    "query",
    [
        _counted((0, 0, 0, 0)),
        _counted((2, 0, 0, 0), b"\2db\0\0\1\0\1"),
        _counted((1, 1, 0, 0)),
        _counted((1, 0, 1, 0)),
        _counted((1, 0, 0, 2)),
        _counted((1, 0, 0, 0x0100)),
        _counted((1, 0, 0, 1)),
        _counted((1, 0, 0, 1), b"\xc0\x0c\0\x29\4\xd0" + bytes(6)),
        _counted((1, 0, 0, 1), b"\0\0\xfa\0\xff" + bytes(6)),
        _counted((1, 0, 0, 0), b"\0"),
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\2db\xc0\4\0\1\0\1",
        struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + b"\2db",
        _counted((1, 0, 0, 1), b"\0\0\x29\4\xd0" + bytes(4) + b"\x10\0\0\x0c\x0f\xfc" + bytes(4092)),
    ],
)
def test_what_is_no_plain_question_is_refused_before_it_is_read(query: bytes, read: list[bytes]) -> None:
    assert Answerer(VIEW).answer(query, CLIENT) == b"\0\7\x81\x81" + bytes(8)
    assert wire.failure(query) is None
    assert read == []


def test_the_longest_question_that_is_asked_in_earnest(read: list[bytes]) -> None:
    """The longest name, a cookie with a server's half, the asker's subnet, and padding to a multiple of 128."""
    name = dns.name.Name([b"x" * 63, b"x" * 63, b"x" * 63, b"x" * 61, b""])
    options = [
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"c" * 40),
        dns.edns.ECSOption("2001:db8::", 128),
    ]
    query = dns.message.make_query(name, "AAAA", use_edns=0, options=options, pad=128).to_wire()
    assert (len(query), len(query) <= wire.LONGEST) == (384, True)
    assert Answerer(VIEW).answer(query, CLIENT) is Verdict.FORWARD
    assert read == [query]


_COUNTS = st.tuples(*[st.one_of(st.integers(0, 3), st.integers(0, 65535))] * 4)


@given(_COUNTS, st.one_of(st.binary(max_size=100), st.just(b"\2db\0\0\1\0\1")), st.binary(max_size=1000))
def test_nothing_is_read_but_one_short_question(counts: tuple[int, int, int, int], start: bytes, rest: bytes) -> None:
    query = struct.pack("!6H", 7, 0x0100, *counts) + start + rest
    with reading() as read:
        answer = Answerer(VIEW).answer(query, CLIENT)
        wire.failure(query)
    assert isinstance(answer, Verdict) or answer[:2] == query[:2]
    if len(query) > 512 or counts[:3] != (1, 0, 0) or counts[3] > 1:
        assert answer == b"\0\7\x81\x81" + bytes(8)
        assert read == []


LABEL = st.binary(min_size=1, max_size=63)


@settings(max_examples=200)
@given(st.lists(LABEL, max_size=6), st.sampled_from(["A", "PTR", "SRV", "ANY"]))
def test_any_name(labels: list[bytes], kind: str) -> None:
    try:
        name = dns.name.Name([*labels, b""])
    except dns.name.NameTooLong:
        return
    _sound(dns.message.make_query(name, kind).to_wire(), Answerer(VIEW))


def test_kept_answers_go_with_their_environment_only() -> None:
    answerer = Answerer(VIEW)
    for _ in range(2):
        ask("db", answerer=answerer)
        ask("cms", client=OTHER, answerer=answerer)
    assert answerer.hits == 2
    shop = Environment("shop-production", {"db": (ODD,)})
    answerer.update(View(VIEW.clients, {**VIEW.environments, "shop-production": shop}))
    assert records(ask("cms", client=OTHER, answerer=answerer)) == {"10.2.0.2"}
    assert answerer.hits == 3
    assert records(ask("db", answerer=answerer)) == {"10.1.0.99"}
    assert answerer.hits == 3
    answerer.update(View(VIEW.clients, {"blog-test": BLOG}))
    assert answerer.answer(dns.message.make_query("db", "A").to_wire(), CLIENT) is Verdict.FORWARD


def test_who_moves_takes_no_answers_along() -> None:
    answerer = Answerer(VIEW)
    ask("db", answerer=answerer)
    answerer.update(View({CLIENT: ("blog-test",)}, VIEW.environments))
    assert answerer.answer(dns.message.make_query("db", "A").to_wire(), CLIENT) is Verdict.FORWARD


def test_a_shelf_is_bounded() -> None:
    shelf = cache.Shelf(())
    for number in range(2000):
        shelf.put((False, number.to_bytes(2, "big") * 10), bytes(1000))
    kept = [number for number in range(2000) if shelf.get((False, number.to_bytes(2, "big") * 10)) is not None]
    assert kept == list(range(2000 - len(kept), 2000))
    assert cache.SHELF - 2000 < len(kept) * 1020 <= cache.SHELF
    shelf.put((True, b"x"), bytes(cache.LONGEST + 1))
    assert shelf.get((True, b"x")) is None


def test_what_is_asked_for_stays_longest() -> None:
    shelf = cache.Shelf(())
    shelf.put((False, b"often"), bytes(100))
    for number in range(2000):
        shelf.put((False, number.to_bytes(2, "big")), bytes(1000))
        assert shelf.get((False, b"often")) is not None
