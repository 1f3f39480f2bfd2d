"""The readers of what others say, each as a function of bytes that raises if something does not hold.

A target takes any bytes at all. Where a reader takes a mapping or several values, ``\0`` stands between them: what is
mutated byte by byte then still has a chance to be meant.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dns.message
import msgspec

from ingress.engineview import answers, rules
from ingress.following import containers
from ingress.following.containers import Surroundings
from ingress.following.remote import Others, seen
from ingress.owners import claims, shared
from ingress.routes import Problem
from plugin import upstreams
from plugin.docker import options, protocol
from plugin.docker.server import Call, calls
from plugin.joining import tokens
from plugin.joining.guests import Guests
from plugin.kernel import leading
from plugin.local import attachments, webdesk
from plugin.model import ip_network
from plugin.ranges import notation
from plugin.resolver import table, wire
from plugin.resolver.wire import Answerer, Verdict
from plugin.resolver.zone import Environment, Replica, View
from plugin.store import mesh
from plugin.store.membership import Memory
from plugin.store.view import StoreView
from plugin.tunnel.sightings import Sightings
from stackpad import hosts, jsontext, labels, records
from stackpad.errors import StackpadError
from tests.fuzz.engine import Container
from tests.fuzz.joins import place_target
from tests.fuzz.sandbox import attempt, sentence

Target = Callable[[bytes], None]

BASE = "stackpad.test"
ME, SECRET = "n1", b"x" * 32
KINDS: tuple[type[records.Record], ...] = (
    records.Cluster, records.Node, records.Alive, records.Range, records.Network, records.Endpoint, records.Ingress,
    records.Web, records.Host, records.Removed, records.RangesLock,
)  # fmt: skip


def text_of(data: bytes) -> str:
    """Any bytes as text, those that are none as replacement characters."""
    return data.decode(errors="replace")


def _label_target(data: bytes) -> None:
    """``name=value`` of labels, with a zero between; the first two fields are the container's and its network's name."""
    name, network, *rest = [*text_of(data).split("\0"), "", ""][: 2 + 64]
    given = dict(entry.partition("=")[::2] for entry in rest if entry)
    asked = attempt(lambda: labels.web(given, name=name, network=network, org="acme", base_domain=BASE))
    attempt(labels.kind, given)
    if asked is None:
        return
    served = [asked.platform_host(BASE), *asked.domains, *([asked.options.canonical] if asked.options.canonical else [])]
    for host in served:
        assert hosts.domain_name(host) == host, "what was read once is read the same again"
        assert not set(host) & set("{}/:@ \t\n\\\"'"), "a meaning beyond a name's"
    assert not any(set("{}\r\n\0") & set("".join(pair)) for pair in asked.options.headers)
    for net in asked.options.allow:
        ipaddress.ip_network(net)


def _host_target(data: bytes) -> None:
    text = text_of(data)
    for read in (hosts.host_name, hosts.domain_name):
        found = attempt(read, text)
        if found is not None:
            assert read(found) == found
            assert found.isascii()
            assert len(found) <= hosts.MAX_LENGTH


def _token_target(data: bytes) -> None:
    _same_token(attempt(tokens.read, text_of(data)))


def _token_body_target(data: bytes) -> None:
    """What is in a token whose check sum is right: anybody can make one."""
    packed = data + hashlib.sha256(data).digest()[:4]
    _same_token(attempt(tokens.read, tokens.PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")))


def _same_token(token: tokens.Token | None) -> None:
    if token is None:
        return
    again = tokens.read(tokens.write(token))
    # Not a number is not equal to itself.
    assert repr(msgspec.to_builtins(again)) == repr(msgspec.to_builtins(token))
    assert token.private_key not in repr(token)
    attempt(tokens.refuse_expired, token, 1e9)
    attempt(tokens.refuse_overlap, [ip_network("10.1.0.0/16")], token.ranges)


def _join_target(data: bytes) -> None:
    """What a node says that wants to come in, and what one is answered."""

    def request() -> None:
        try:
            asked = jsontext.decode(data, type=tokens.JoinRequest)
        except msgspec.DecodeError:
            return
        tokens.name(asked.name)
        tokens.refuse_clock(asked.time, 1e9)

    def answer() -> tokens.JoinAnswer | None:
        try:
            return tokens.check(jsontext.decode(data, type=tokens.JoinAnswer))
        except msgspec.DecodeError:
            return None

    attempt(request)
    given = attempt(answer)
    if given is not None:
        assert jsontext.decode(msgspec.json.encode(given), type=tokens.JoinAnswer) == given


def _record_target(data: bytes) -> None:
    for kind in KINDS:
        record = attempt(lambda kind=kind: records.check(records.decode(data, kind)))
        if record is None:
            continue
        assert records.decode(records.encode(record), kind) == record
        try:
            before = jsontext.decode(data, type=dict[str, Any])
        except msgspec.DecodeError:
            continue  # a number that no machine has, in a field that this record does not
        kept = jsontext.decode(records.encode(record, data), type=dict[str, Any])
        fields = msgspec.to_builtins(record)
        assert {name: value for name, value in kept.items() if name not in fields} == {
            name: value for name, value in before.items() if name not in fields
        }, "what this version does not know is kept"


def pairs(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Keys as the store's client gives them, and values, with a zero between; an empty value is a key that is gone."""
    parts = data.split(b"\0")
    for key, value in zip(parts[::2], parts[1::2], strict=False):
        short = key.decode("utf-8", "surrogateescape")
        yield (short if short.startswith("/") else records.ROOT + short), value or None


def _store_target(data: bytes) -> None:
    """The store as somebody has it who has the cluster's keys: whatever is in there ends nobody else's process."""
    events = list(pairs(data))
    view = StoreView()
    half = len(events) // 2
    view.replace({key: value for key, value in events[:half] if value is not None})
    view.change(events[half:])
    for problem in view.problems.values():
        sentence(problem)
    _use(view)
    view.settle("n2")
    view.bury("n2")
    _use(view)
    view.replace({})
    view.clear()
    assert not view.raw
    assert not view.shown


def _use(view: StoreView) -> None:
    """What the node does with the store's content."""
    msgspec.json.encode(view.raw)
    plan = mesh.plan(
        view.view(), me=ME, secret=SECRET, own_ranges=[ip_network("10.192.0.0/18")], addresses=["10.192.0.1"]
    )
    for element in plan.elements:
        assert element.key.isprintable()
    names = table.view(view.view(), ME, [table.Own("c", "shop", ("10.192.0.2",), internal=False)])
    Answerer(names).answer(QUESTION, "10.192.0.2")
    line = b" ".join(view.shown.values())
    assert b"\n" not in line, "the ingress is told one record a line"
    for value in view.shown.values():
        jsontext.decode(value)
    _ingress(view.shown)


def _ingress(values: Mapping[str, bytes]) -> None:
    there = seen(values, node=ME, control=True, connected=True)
    _, problems = Others(BASE).read(there, lambda address, port: port % 2 == 0)
    for problem in problems:
        problem.text.encode()
    ledger = shared.read(there.hosts)
    msgspec.json.encode(shared.payload(shared.differences(ledger, there.hosts, ME)))


def _shown_target(data: bytes) -> None:
    """The same, as an ingress has it whose plugin checks no value."""
    values = {key: value for key, value in pairs(data) if value is not None and key.isprintable()}
    _ingress(values)


def _question(name: bytes = b"\x08postgres\0", kind: int = 1, flags: bytes = b"\1\0") -> bytes:
    return b"\x12\x34" + flags + b"\0\1\0\0\0\0\0\0" + name + bytes([0, kind, 0, 1])


QUESTION = _question()
_ADDRESSES = tuple(ipaddress.ip_address(text) for text in ("10.192.0.2", "fd00::2"))
ANSWERER = Answerer(
    View(
        {"10.192.0.2": ("shop", "inner"), "10.192.0.3": ("inner",)},
        {
            "shop": Environment(
                "shop",
                {
                    "postgres": (Replica("postgres", _ADDRESSES, ((5432, "tcp"),), local=True),),
                    "web": tuple(Replica(f"web-{n}", _ADDRESSES, ((80, "tcp"),)) for n in range(3)),
                },
                frozenset({"gone"}),
                {_ADDRESSES[0]: "postgres"},
            ),
            "inner": Environment("inner", {"postgres": (Replica("db", _ADDRESSES[:1]),)}, internal=True),
        },
    )
)


def _dns_target(data: bytes) -> None:
    """A datagram, and the same on a stream, of a container, of one without a way outside, and of a stranger."""
    for client in ("10.192.0.2", "10.192.0.3", "203.0.113.1"):
        for stream in (False, True):
            answer = ANSWERER.answer(data, client, stream=stream)
            if isinstance(answer, Verdict):
                assert client != "10.192.0.3" or answer is Verdict.DROP, "of an internal network nothing goes outside"
                continue
            assert answer[:2] == data[:2], "the asker's own number"
            assert answer[2] & 0x80, "an answer says that it is one"
            assert len(answer) <= (65535 if stream else wire.PAYLOAD)
            dns.message.from_wire(answer)
    refusal = wire.failure(data)
    if refusal is not None:
        assert dns.message.from_wire(refusal).rcode() == dns.rcode.SERVFAIL


def _report_target(data: bytes) -> None:
    report = attempt(webdesk.read, data)
    if report is not None:
        assert webdesk.read(msgspec.json.encode(report)) == report
        own = [ip_network("10.192.0.0/18"), ip_network("fd00::/64")]
        for element in webdesk.elements(report, own):
            address, _, port = element.key.partition(" . ")
            assert any(ipaddress.ip_address(address) in net for net in own if net.version == (6 if ":" in address else 4))
            assert 0 < int(port) < 65536


def _upstreams_target(data: bytes) -> None:
    given = attempt(upstreams.read, data)
    attempt(upstreams.read_changes, data)
    for number, targets in (given or {}).items():
        assert upstreams.decode(upstreams.encode(targets)) == targets
        for element in leading.elements(number, targets):
            assert element.key.isprintable()
            assert set(element.key + element.value) <= set("0123456789abcdef:. ")


AROUND = Surroundings(
    {"n" * 64: ("my-app-production", "stackpad"), "o" * 64: ("bridge", "bridge")},
    frozenset({"stackpad", "stackpad/net:latest"}),
    "acme",
    BASE,
)


def _container_target(data: bytes) -> None:
    """A container as an engine writes one: types are the engine's, and hold; texts are the tenant's."""
    try:
        raw: Any = msgspec.to_builtins(jsontext.decode(data, type=Container))
    except msgspec.DecodeError:
        return
    found = containers.read(raw, AROUND)
    if isinstance(found, Problem):
        sentence(found.text)
    containers.fingerprint(raw)
    AROUND.knows(raw)
    for attached in attachments.attachments(raw):
        assert all(name.isascii() and name == name.lower() for name in attached.names)
        assert len(attached.names) <= attachments.NAMES
        assert len(attached.ports) <= attachments.PORTS


def _view_target(data: bytes) -> None:
    """Method, target and the engine's answer, with zeros between: what goes on is one thing, and so is what is shown."""
    method, target, body = [*data.split(b"\0", 2), b"", b""][:3]
    asked = attempt(rules.read, text_of(method), text_of(target))
    if asked is not None:
        path = asked.target.partition("?")[0]
        assert path == text_of(target).partition("?")[0]
        assert asked.target.isascii()
        assert asked.target.isprintable()
        assert not {"", ".", ".."} & set(path.split("/")[1:])
        assert rules.read(text_of(method), asked.target) == asked
        if asked.resource is not rules.Resource.EVENTS and (body_shown := attempt(answers.shown, asked.resource, body)):
            assert answers.shown(asked.resource, body_shown) == body_shown
    line = attempt(answers.event, body)
    assert line is None or answers.event(line) == line


def _call_target(data: bytes) -> None:
    """A body of Docker's in the reader of each of its calls, as far as it is read without state or kernel."""
    for name, call in BODIES.items():
        try:
            body = jsontext.decode(data, type=call.body)
        except msgspec.DecodeError:
            continue
        if isinstance(body, protocol.CreateNetwork):
            network = attempt(options.network, body)
            if network is not None:
                assert len(network.bridge) <= 15, name
        elif isinstance(body, protocol.ProgramExternalConnectivity):
            attempt(lambda body=body: list(options.port_requests(body.options)))
        elif isinstance(body, protocol.RequestPool):
            attempt(notation.range_of, body.pool)


def _bodies() -> dict[str, Call]:
    class Anything:
        def __getattr__(self, _: str) -> None:
            return None

    nothing: Any = Anything()
    return {path: call for path, call in calls(nothing, nothing).items() if call.body is not None}


BODIES = _bodies()


def _disk_target(data: bytes) -> None:
    """Files that a crash, a bad disk or another version has left; the first byte says which."""
    which, content = data[:1] or b"0", data[1:]
    with tempfile.TemporaryDirectory(dir=_MEMORY) as name:
        directory = Path(name)
        file = directory / FILES[which[0] % len(FILES)]
        file.write_bytes(content)
        match file.name:
            case "membership.json":
                kept = attempt(Memory(directory).load)
                if kept is not None:
                    assert kept.held() is not None
                    assert kept.blocks(4) is not None
                    assert kept.key is not None
                    records.key(records.NODES, kept.node)
            case "view.json":
                StoreView().replace(Memory(directory).load_view())
            case "guests.json":
                guests = Guests(directory)
                guests.peers(0.0)
                guests.listed(0.0)
            case "sightings.json":
                Sightings(directory).load()
            case "web.json":
                webdesk.WebDesk(file)
            case _:
                ledger = attempt(claims.Claims, file)
                assert ledger is not None or file.read_bytes() == content, "what cannot be read is left as it is"


FILES = ("membership.json", "view.json", "guests.json", "sightings.json", "web.json", "claims.json")
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

TARGETS: dict[str, Target] = {
    "labels": _label_target,
    "hosts": _host_target,
    "token": _token_target,
    "token-body": _token_body_target,
    "join": _join_target,
    "place": place_target,
    "record": _record_target,
    "store": _store_target,
    "shown": _shown_target,
    "dns": _dns_target,
    "web-report": _report_target,
    "upstreams": _upstreams_target,
    "container": _container_target,
    "view": _view_target,
    "call": _call_target,
    "disk": _disk_target,
}

__all__ = ["ANSWERER", "TARGETS", "StackpadError", "Target"]
