"""The pure half of the store's client: the wire format, ranges, endpoints and sentences."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackpad.errors import InvalidRequest, StackpadError, Unavailable
from stackpad.etcd import (
    Answer,
    Compacted,
    Delete,
    Etcd,
    Event,
    Get,
    KeyValue,
    LeaseGone,
    Put,
    Tls,
    Undecided,
    absent,
    equals,
    present,
    sentences,
    unchanged,
)
from stackpad.etcd.diagnosis import LogLine, read_line, why
from stackpad.etcd.endpoints import Endpoint, Trust
from stackpad.etcd.messages import (
    CompactRequest,
    Header,
    Line,
    Lines,
    RangeRequest,
    RangeResponse,
    Refusal,
    TxnRequest,
    TxnResponse,
    WatchCreate,
    WatchRequest,
    WatchResponse,
    Wire,
    decode,
    encode,
    prefix_range,
    to_wire,
)

KEYS = st.text(st.characters(codec="utf-8")) | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(st.lists(st.binary().map(lambda raw: raw.replace(b"\n", b""))), st.data())
def test_lines_are_the_same_wherever_the_stream_was_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    splitter, found = Lines(), list[bytes]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.feed(stream[start:end])
    assert found == [line for line in lines if line.strip()]


def test_an_unfinished_line_waits() -> None:
    splitter = Lines()
    assert list(splitter.feed(b"ab")) == []
    assert list(splitter.feed(b"")) == []
    assert list(splitter.feed(b"c\nd")) == [b"abc"]
    assert list(splitter.feed(b"\n")) == [b"d"]


@given(KEYS, KEYS)
def test_a_prefix_range_holds_just_what_begins_with_it(prefix: str, key: str) -> None:
    start, end = prefix_range(prefix)
    for candidate in (to_wire(key), to_wire(prefix) + to_wire(key), to_wire(prefix)):
        if candidate:
            within = start <= candidate and (end == b"\0" or candidate < end)
            assert within == candidate.startswith(to_wire(prefix))


@given(KEYS)
def test_keys_survive_the_wire(key: str) -> None:
    sent = json.loads(encode(RangeRequest(to_wire(key))))
    line = {"kvs": [{"key": sent["key"], "mod_revision": "7"}]}
    (raw,) = decode(RangeResponse, json.dumps(line).encode()).kvs
    assert KeyValue.of(raw) == KeyValue(key, b"", 7, 0, 0, 0)


@given(st.binary(), st.integers(-(2**63), 2**63 - 1))
def test_values_and_64_bit_numbers_are_exact(value: bytes, number: int) -> None:
    text = json.dumps(
        {"kvs": [{"key": "YQ==", "value": base64.b64encode(value).decode(), "lease": str(number), "unknown": [1]}]}
    )
    (raw,) = decode(RangeResponse, text.encode()).kvs
    assert (raw.value, raw.lease) == (value, number)
    assert json.loads(encode(raw)).get("lease", 0) == number


@given(st.binary())
def test_garbage_is_refused_and_never_more(data: bytes) -> None:
    for kind in (RangeResponse, TxnResponse, Line[WatchResponse], Refusal):
        with contextlib.suppress(msgspec.DecodeError):
            decode(kind, data)


def test_a_transaction_is_written_as_etcd_reads_it() -> None:
    request = TxnRequest(
        [absent("a").wire, present("a").wire, unchanged("a", 3).wire, equals("a", b"v").wire],
        [Put("a", b"1", 9).wire(), Delete("a").wire()],
        [Get("a").wire()],
    )
    key = {"key": "YQ=="}
    assert json.loads(encode(request)) == {
        "compare": [
            {"result": "EQUAL", "target": "CREATE", **key},
            {"result": "GREATER", "target": "CREATE", **key},
            {"result": "EQUAL", "target": "MOD", "mod_revision": 3, **key},
            {"result": "EQUAL", "target": "VALUE", "value": "dg==", **key},
        ],
        "success": [{"request_put": {"value": "MQ==", "lease": 9, **key}}, {"request_delete_range": key}],
        "failure": [{"request_range": key}],
    }


def test_what_is_sent_is_all_there() -> None:
    """Only what protobuf takes for unset anyway may be left out."""
    assert json.loads(encode(WatchRequest(WatchCreate(b"a", b"b", 7, progress_notify=True)))) == {
        "create_request": {"key": "YQ==", "range_end": "Yg==", "start_revision": 7, "progress_notify": True}
    }
    assert json.loads(encode(CompactRequest(7, physical=True))) == {"revision": 7, "physical": True}
    for kind in Wire.__subclasses__():
        for field in msgspec.structs.fields(kind):
            unset = (msgspec.NODEFAULT, 0, False, "", b"", None, "NONE", "PUT")
            assert field.default in unset or field.default == Header(), (kind, field.name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"response_put":{"header":{"revision":"4"}}}', Answer()),
        ('{"response_delete_range":{"header":{},"deleted":"2"}}', Answer(deleted=2)),
        ('{"response_range":{"header":{}}}', Answer()),
        (
            '{"response_range":{"kvs":[{"key":"YQ==","value":"MQ==","version":"1"}],"count":"1"}}',
            Answer(kv=KeyValue("a", b"1", 0, 0, 1, 0)),
        ),
    ],
)
def test_the_answers_of_a_transaction_are_read(text: str, expected: Answer) -> None:
    (raw,) = decode(TxnResponse, f'{{"succeeded":true,"responses":[{text}]}}'.encode()).responses
    assert Answer.of(raw) == expected


def test_a_watch_is_read() -> None:
    text = b"""{"result":{"header":{"cluster_id":"14841639068965178418","revision":"9"},"events":[
        {"kv":{"key":"YQ==","mod_revision":"8","value":"MQ=="}},
        {"type":"DELETE","kv":{"key":"Yg==","mod_revision":"9"}}]}}"""
    read = decode(Line[WatchResponse], text).result
    assert read is not None
    assert read.header.cluster_id == 14841639068965178418
    assert [Event.of(raw) for raw in read.events] == [
        Event("a", KeyValue("a", b"1", 8, 0, 0, 0)),
        Event("b", None),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error":"a","message":"a","code":5}', "a"),  # 3.4, 3.5
        ('{"code":5,"message":"a","details":[]}', "a"),  # 3.6
        ('{"error":{"grpc_code":14,"http_code":503,"message":"b"}}', "b"),  # in a stream
    ],
)
def test_the_refusals_of_all_gateways_are_read(text: str, said: str) -> None:
    assert decode(Refusal, text.encode()).text == said


@pytest.mark.parametrize(
    ("url", "base", "path"),
    [
        ("http://a", "http://a:2379", None),
        ("https://10.0.0.1:4001/", "https://10.0.0.1:4001", None),
        (" http://[fd00::1]:2379 ", "http://[fd00::1]:2379", None),
        ("unix:///run/etcd/client:0", "http://etcd", "/run/etcd/client:0"),
    ],
)
def test_endpoints_are_read(url: str, base: str, path: str | None) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.base, endpoint.path) == (base, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a:2379",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://a/v3",
        "http://a?x",
        "http://[",
        "http://[x",
        "unix://a",
        "unix:///" + "a" * 120,
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Endpoint.parse(url)
    assert url in str(caught.value)


def test_a_password_in_an_address_is_refused_without_being_repeated() -> None:
    with pytest.raises(InvalidRequest, match="set STORE_USER and STORE_PASSWORD instead") as caught:
        Endpoint.parse("https://me:secret@a:2379")
    assert "https://a:2379" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_endpoint_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="set STORE"):
        Etcd([])


def test_the_errors_are_the_projects_own() -> None:
    assert issubclass(Undecided, Unavailable)
    assert issubclass(Compacted, Unavailable)
    assert issubclass(LeaseGone, StackpadError)
    assert Compacted("x", 5).revision == 5


def test_a_tls_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(Unavailable, match=rf"no file {path}, which STORE_CA names"):
        Trust(Tls(ca=path)).context()
    path.write_text("hello")
    with pytest.raises(Unavailable, match=r"ca\.pem \(STORE_CA\) cannot be read.*PEM"):
        Trust(Tls(ca=path)).context()
    assert Trust(None).context().verify_mode == ssl.CERT_REQUIRED


def _tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            ConnectionRefusedError(111, "Connection refused"),
            "(Connection refused); check that etcd runs",
        ),
        (aiohttp.ConnectionTimeoutError(), "no firewall drops the port"),
        (_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "set STORE_CERT and STORE_KEY"),
        (_tls("TLSV1_ALERT_UNKNOWN_CA"), "check what STORE_CERT and STORE_KEY name"),
        (_tls("WRONG_VERSION_NUMBER"), "write http:// in STORE"),
        (_tls("SOMETHING_NEW"), "check STORE, STORE_CA, STORE_CERT and STORE_KEY"),
        (ConnectionResetError(104, "Connection reset by peer"), "write http:// in STORE if etcd has no TLS there"),
    ],
)
def test_a_store_out_of_reach_is_named_with_the_remedy(error: Exception, remedy: str) -> None:
    said = sentences.unreachable("https://a:2379", error)
    assert "https://a:2379" in said
    assert remedy in said


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("etcdserver: authentication failed, invalid user ID or password", "check STORE_USER, STORE_PASSWORD"),
        ("etcdserver: user name is empty", "set STORE_USER and STORE_PASSWORD"),
        ("etcdserver: permission denied", "user 'pad' (STORE_USER) may not touch these keys"),
        ("etcdserver: mvcc: database space exceeded", "compact and defragment"),
        ("etcdserver: no leader", "most of its members must run"),
        ("rpc error: code = Unavailable desc = etcdserver: request timed out", "(etcdserver: request timed out)"),
        ("something new", "refused: something new"),
    ],
)
def test_a_refusal_comes_with_its_remedy(text: str, remedy: str) -> None:
    said = sentences.refused("https://a:2379", text, "pad")
    assert said.startswith("store https://a:2379 refused")
    assert remedy in said


@pytest.mark.parametrize(
    ("status", "log", "sentence"),
    [
        (1, ["listen tcp 10.191.0.1:2379: bind: address already in use"], "another program listens on 10.191.0.1:2379"),
        (1, ["listen tcp [fd00::1]:2379: bind: cannot assign requested address"], "[fd00::1]:2379, since this node"),
        (1, ["cannot write: write x: no space left on device", "other"], "the disk of /d is full"),
        (2, ["wal: crc mismatch"], "etcd cannot read its data; its data in /d"),
        (1, ["a fault nobody has seen"], "(x: a fault nobody has seen); its data in /d may be damaged"),
        (-9, [], "ended by signal 9"),
        (0, [], "without a word"),
    ],
)
def test_the_end_of_an_etcd_is_explained(status: int, log: list[str], sentence: str) -> None:
    lines = [read_line(json.dumps({"level": "fatal", "msg": "x", "error": text}).encode()) for text in log]
    said = why(lines, status, "/d")
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"level":"info","ts":"t","caller":"c","msg":"ready"}', LogLine("info", "ready")),
        (b'{"level":"warn","msg":"a","error":"b"}', LogLine("warn", "a", "b")),
        (b"panic: runtime error", LogLine("panic", "panic: runtime error")),
        (b"goroutine 1 [running]:", LogLine("", "goroutine 1 [running]:")),
        (b'{"level":3}', LogLine("", '{"level":3}')),
        (b"\xff", LogLine("", "\N{REPLACEMENT CHARACTER}")),
    ],
)
def test_any_line_of_a_log_can_be_read(raw: bytes, expected: LogLine) -> None:
    assert read_line(raw) == expected


@given(st.binary(), st.integers(-64, 255))
def test_whatever_etcd_wrote_there_is_a_sentence(raw: bytes, status: int) -> None:
    assert why([read_line(line) for line in raw.split(b"\n")], status, "/d").startswith(("etcd", "the disk", "another"))
