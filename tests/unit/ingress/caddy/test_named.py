"""What Caddy is answered where hosts are found by name."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.caddy import named
from ingress.routes import State
from ingress.upstreams.stable import TURN
from stackpad.labels import Wire
from stackpad.routeoptions import RouteOptions
from stackpad.upstreams import STEM4, STEM6
from tests.unit.ingress.test_routes import container, made

PAGES = "127.0.0.1:9181"
LONG = ".".join(["a" * 59] * 3 + ["b" * 52, "example"])
"""As long as a host that is found by name can be."""

KNOWN = {
    "shop.acme.stackpad.test": ("10.192.0.2:80",),
    "two.example": ("10.192.0.2:80", "[fd00::2]:8080"),
    "down.example": (),
    "number.example": (f"{STEM4}{TURN}:20001",),
    "six.example": (f"[{STEM6}{TURN}]:20002",),
    LONG: tuple(f"[fd00::{last}]:8080" for last in range(1, 7)),
    "many.example": tuple(f"10.192.0.{last}:80" for last in range(1, 17)),
}


def asked(name: str, kind: str = "SRV", known: named.Hosts | None = KNOWN, now: float = 0.0) -> dns.message.Message:
    """The answer to Caddy's question; Go's resolver says nothing of its datagrams' size, or has 1232 bytes."""
    data = named.answer(dns.message.make_query(name, kind).to_wire(), known, PAGES, now)
    assert data is not None
    assert len(data) <= 512
    return dns.message.from_wire(data)


def places(host: str, now: float = 0.0) -> set[str]:
    """Where visitors of a host are led: what the records say, each target looked up as Caddy does."""
    found = set()
    for record in asked(f"{host}.{named.ZONE}", now=now).answer[0]:
        targets = [asked(str(record.target), kind).answer for kind in ("A", "AAAA")]
        ((address,),) = [rrset for answer in targets for rrset in answer]
        found.add(f"{address} {record.port}")
    return found


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("shop.acme.stackpad.test", {"10.192.0.2 80"}),
        ("SHOP.acme.stackpad.test", {"10.192.0.2 80"}),
        ("two.example", {"10.192.0.2 80", "fd00::2 8080"}),
        ("down.example", {"127.0.0.1 9181"}),
        ("nobody.example", {"127.0.0.1 9181"}),
        ("x", {"127.0.0.1 9181"}),
    ],
)
def test_where_a_host_is(host: str, expected: set[str]) -> None:
    assert places(host) == expected


@pytest.mark.parametrize(("now", "last"), [(0.0, "54"), (4.9, "54"), (5.0, "55"), (19.9, "55"), (20.0, "54")])
def test_the_addresses_of_numbers_take_turns(now: float, last: str) -> None:
    assert places("number.example", now) == {f"169.254.53.{last} 20001"}
    assert places("six.example", now) == {f"fd9c:5acd:5353::{last} 20002"}


def test_of_many_some_are_named() -> None:
    found = set().union(*(places("many.example") for _ in range(50)))
    assert len(places("many.example")) == named.MOST
    assert len(found) == 16


def test_a_long_name_has_fewer_records() -> None:
    assert len(LONG) + len(named.ZONE) == named.NAME
    assert 1 <= len(places(LONG)) < 6
    small = dns.message.make_query(f"{LONG}.{named.ZONE}", "SRV", use_edns=0, payload=512)
    assert named.answer(small.to_wire(), KNOWN, PAGES, 0.0) is not None


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("www.example.org.", "SRV", dns.rcode.REFUSED),
        ("web.stackpad.evil.", "A", dns.rcode.REFUSED),
        (f"ip-0a00.{named.ZONE}", "A", dns.rcode.NXDOMAIN),
        (f"ip-zz.{named.ZONE}", "A", dns.rcode.NXDOMAIN),
        (f"0a000001.{named.ZONE}", "A", dns.rcode.NXDOMAIN),
        (f"a.ip-0a000001.{named.ZONE}", "A", dns.rcode.NXDOMAIN),
        (f"shop.acme.stackpad.test.{named.ZONE}", "TXT", dns.rcode.NOERROR),
        (f"ip-0a000001.{named.ZONE}", "AAAA", dns.rcode.NOERROR),
        (named.ZONE, "A", dns.rcode.NXDOMAIN),
    ],
)
def test_what_nobody_has_is_not_made_up(name: str, kind: str, code: int) -> None:
    answer = asked(name, kind)
    assert (answer.rcode(), answer.answer) == (code, [])


def test_before_there_is_a_table_nothing_is_known() -> None:
    """Nobody is to be told that a host is nobody's because the ingress has just started."""
    assert asked(f"shop.acme.stackpad.test.{named.ZONE}", known=None).rcode() == dns.rcode.SERVFAIL
    assert named.page("shop.acme.stackpad.test", None)[0] == 503


def test_pages_of_hosts_nobody_is_up_for() -> None:
    assert [named.page(host, KNOWN)[0] for host in ("down.example", "Down.Example.", "nobody.example", "")] == [
        503, 503, 404, 404,
    ]  # fmt: skip


def test_which_hosts_are_found_by_name() -> None:
    """Those that a line without anything special would say; never one that is guarded."""
    table = made(
        container("plain", project="plain", domains=("www.plain.example",)),
        container("one", project="two", address="10.0.0.3"),
        container("other", project="two", address="10.0.0.4"),
        container("down", project="down", state=State.DOWN, address=None),
        container("path", project="path", path="/a"),
        container("grpc", project="grpc", wire=Wire.H2C),
        container("shut", project="shut", options=RouteOptions(maintenance=True)),
        container("gate", project="gate", options=RouteOptions(allow=("192.0.2.0/24",))),
        container("auth", project="auth", options=RouteOptions(auth=(("bob", "$2b$04$x"),))),
        container(
            "home", project="home", domains=("home.example", "www.home.example"), options=RouteOptions("home.example")
        ),
        container("wide", project="wide", domains=("*.wide.example",)),
        container("long", project="long", domains=(LONG, "c" + LONG)),
    )
    assert set(named.hosts(table)) == {
        "plain.acme.stackpad.test", "www.plain.example", "two.acme.stackpad.test", "down.acme.stackpad.test",
        "home.example", "wide.acme.stackpad.test", "long.acme.stackpad.test", LONG,
    }  # fmt: skip
    assert len(named.hosts(table)["two.acme.stackpad.test"]) == 2


@given(st.binary(max_size=600))
def test_anything_may_be_said(data: bytes) -> None:
    named.answer(data, KNOWN, PAGES, 0.0)


@given(st.data())
def test_a_question_that_is_damaged(data: st.DataObject) -> None:
    query = bytearray(dns.message.make_query(f"shop.acme.stackpad.test.{named.ZONE}", "SRV").to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        query[data.draw(st.integers(2, len(query) - 1))] = data.draw(st.integers(0, 255))
    answer = named.answer(bytes(query), KNOWN, PAGES, 0.0)
    assert answer is None or answer[2] & 0x80, "an answer, which nobody answers again"


def test_answers_are_not_answered() -> None:
    query = dns.message.make_query(f"two.example.{named.ZONE}", "SRV")
    query.flags |= dns.flags.QR
    assert named.answer(query.to_wire(), KNOWN, PAGES, 0.0) is None
