"""What hypothesis makes by the rules of each format: well formed, and wrong only in what it means."""

from __future__ import annotations

import base64
import os
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackpad import labels, records
from tests.fuzz.targets import TARGETS

TIMES = int(os.environ.get("STACKPAD_FUZZ") or 1)
FEW = settings(
    max_examples=200 * TIMES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=TIMES == 1,
    database=None,
)

TEXT = st.text(max_size=12) | st.sampled_from(["shop", "n2", "web", "a/b", "\x1b[2J", "ä", "x" * 300, "%eth0", ""])
ADDRESS = st.sampled_from(
    ["10.192.64.66", "fd00::2", "fe80::1%eth0", "0.0.0.0", "::ffff:10.1.2.3", "ten", "127.0.0.1", ""]
)
NET = st.sampled_from(
    ["10.192.64.0/18", "10.192.64.64/26", "0.0.0.0/0", "fd00::/48", "::/0", "10.0.0.1/8", "fe80::%x/64", "x"]
)
KEY = st.binary(min_size=31, max_size=33).map(lambda key: base64.b64encode(key).decode()) | TEXT
WHERE = st.sampled_from(["192.0.2.2:51820", "[fd00::1]:1", "host:1", "192.0.2.2:0", "[::1%lo]:5"]) | TEXT
NUMBER = st.integers() | st.integers(0, 70000)
TIME = st.floats(allow_nan=False, allow_infinity=False)
PORT = st.sampled_from(["80/tcp", "²/udp", "x"]) | TEXT
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "owner": st.sampled_from(["n1", "n2", "n3", "a/b", ""]) | TEXT,
    **dict.fromkeys(("mesh4", "mesh6", "address"), ADDRESS),
    **dict.fromkeys(("range4", "range6", "net"), NET),
    "public_keys": st.lists(KEY, max_size=2),
    "endpoints": st.lists(WHERE, max_size=2),
    "subnets": st.lists(NET, max_size=2),
    "addresses": st.lists(ADDRESS, max_size=2),
    "names": st.lists(TEXT, max_size=3),
    "ports": st.lists(PORT, max_size=3),
    "labels": st.dictionaries(st.sampled_from(labels.KNOWN) | TEXT, TEXT, max_size=4),
    "state": TEXT | st.just("up"),
    "claim": st.dictionaries(st.sampled_from(["claim", "ruling", "released"]), st.none() | st.dictionaries(TEXT, TEXT)),
}
BY_TYPE: dict[object, st.SearchStrategy[Any]] = {str: TEXT, int: NUMBER, float: TIME, bool: st.booleans()}


def fields_of(kind: type[records.Record]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with the fields of a record, some of them left out, and one that nobody knows."""
    made = {field.name: BY_NAME.get(field.name, BY_TYPE.get(field.type, TEXT)) for field in msgspec.structs.fields(kind)}
    required = {field.name: made.pop(field.name) for field in msgspec.structs.fields(kind) if field.required}
    return st.fixed_dictionaries(required, optional={**made, "of_the_future": st.none() | TEXT})


KINDS: dict[str, type[records.Record]] = {
    "nodes/n2": records.Node, "nodes/n3": records.Node, "alive/n2": records.Alive, "cluster": records.Cluster,
    "ranges/10.192.64.0-18": records.Range, "networks/n2/a": records.Network, "endpoints/n2/e": records.Endpoint,
    "ingresses/n2": records.Ingress, "web/n2/c": records.Web, "hosts/www.example.org": records.Host,
    "removed/n3": records.Removed,
}  # fmt: skip
ENTRY = st.sampled_from(sorted(KINDS)).flatmap(
    lambda key: st.tuples(st.just(key), st.none() | fields_of(KINDS[key]).map(msgspec.json.encode))
)


def joined(entries: list[tuple[str, bytes | None]]) -> bytes:
    return b"\0".join(part for key, value in entries for part in (key.encode(), value or b""))


@settings(FEW, max_examples=100 * TIMES)
@given(st.lists(ENTRY, max_size=12))
def test_a_store_full_of_records(entries: list[tuple[str, bytes | None]]) -> None:
    TARGETS["store"](joined(entries))
    TARGETS["shown"](joined([(records.ROOT + key, value) for key, value in entries]))
    for _, value in entries:
        TARGETS["record"](value or b"")


LABEL_VALUES: dict[str, st.SearchStrategy[str]] = {
    labels.TYPE: st.just("web") | TEXT,
    labels.PORT: st.integers(-1, 70000).map(str) | TEXT,
    labels.DOMAINS: st.lists(st.from_regex(r"(\*\.)?[a-zäß-]{1,5}(\.[a-z0-9]{1,4}){0,3}", fullmatch=True)).map(" ".join),
    "stackpad.path": st.from_regex(r"(/[a-z.~]{0,3}){0,3}", fullmatch=True),
    "stackpad.headers": st.lists(st.tuples(TEXT, TEXT).map(": ".join), max_size=3).map("|".join),
    "stackpad.allow": st.lists(NET | ADDRESS, max_size=3).map(" ".join),
    "stackpad.body": st.from_regex(r"[0-9]{1,4} ?[kKmMgGiIbB]{0,3}", fullmatch=True),
    "stackpad.strip": st.sampled_from(["true", "false", "True"]),
}


@FEW
@given(
    TEXT,
    st.sampled_from(["shop-production", "Shop_Default", "-", "a" * 70, "x\x1b[0m"]),
    st.fixed_dictionaries({}, optional=LABEL_VALUES),
    st.dictionaries(st.sampled_from(labels.KNOWN) | TEXT, TEXT, max_size=2),
)
def test_labels(name: str, network: str, meant: dict[str, str], more: dict[str, str]) -> None:
    pairs = [f"{label}={value}" for label, value in {**meant, **more}.items()]
    TARGETS["labels"]("\0".join([name, network, *pairs]).encode(errors="replace"))


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    """Messages as dnspython writes them: any name, type, class, flags and options."""
    parts = draw(
        st.lists(st.binary(min_size=1, max_size=20) | st.sampled_from([b"postgres", b"shop", b"_tcp"]), max_size=4)
    )
    name = dns.name.Name((*parts, b""))
    message = dns.message.QueryMessage(id=draw(st.integers(0, 65535)))
    message.flags = draw(st.integers(0, 65535))
    kind, cls = (
        draw(st.sampled_from([1, 28, 33, 12, 255, 6, 252, 65535, 41, 250])),
        draw(st.sampled_from([1, 3, 255, 254])),
    )
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
        message.question.append(
            dns.rrset.RRset(name, dns.rdataclass.RdataClass.make(cls), dns.rdatatype.RdataType.make(kind))
        )
    if draw(st.booleans()):
        options = draw(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=24)), max_size=3))
        message.use_edns(
            draw(st.integers(0, 1)), draw(st.integers(0, 65535)), draw(st.integers(0, 65535)),
            options=[dns.edns.GenericOption(dns.edns.OptionType.make(code), value) for code, value in options],
        )  # fmt: skip
    return message.to_wire()


@FEW
@given(questions())
def test_questions(query: bytes) -> None:
    TARGETS["dns"](query)


@FEW
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("id", "private_key", "preshared_key", "address", "gateway_key", "gateway_address"), TEXT)
        | {"endpoints": st.lists(WHERE, max_size=2), "expires": st.floats()},
        optional={"ranges": st.lists(NET, max_size=2), "of_the_future": TEXT},
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "private_key": KEY,
            "preshared_key": KEY,
            "gateway_key": KEY,
            "address": ADDRESS,
            "gateway_address": ADDRESS,
        },
    ),
)
def test_what_is_in_a_token(fields: dict[str, Any], better: dict[str, Any]) -> None:
    TARGETS["token-body"](msgspec.msgpack.encode({**fields, **better}))


@FEW
@given(fields_of(records.Cluster), fields_of(records.Node), st.lists(fields_of(records.Range), max_size=2), ADDRESS, TEXT)
def test_an_answer_to_who_joins(
    cluster: dict[str, Any], node: dict[str, Any], ranges: list[dict[str, Any]], address: str, name: str
) -> None:
    answer = {"node": name, "name": name, "cluster": cluster, "secret": "", "mesh4": address, "mesh6": address}
    more = {"ranges": ranges, "store": [], "gateway": node, "gateway_ranges": ranges}
    TARGETS["join"](msgspec.json.encode({**answer, **more}))


@FEW
@given(
    st.fixed_dictionaries(
        {"token": TEXT, "digest": TEXT, "name": st.from_regex(r"[A-Za-z0-9.-]{1,20}", fullmatch=True) | TEXT}
        | {"public_key": KEY, "time": st.floats(1e9 - 90, 1e9 + 90) | TIME},
        optional={
            "endpoints": st.lists(WHERE, max_size=2),
            "ranges": st.lists(NET | st.integers(0, 255).map("10.{}.0.0/24".format), max_size=4),
            "former": st.sampled_from(["n1", "n2", ""]) | TEXT,
            "mtu": NUMBER,
            "engine": TEXT,
            "of_the_future": TEXT,
        },
    )
)
def test_what_a_guest_says_of_itself(fields: dict[str, Any]) -> None:
    TARGETS["place"](msgspec.json.encode(fields))
