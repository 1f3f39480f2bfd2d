"""What may be asked of the engine through the view: each resource, and everything else."""

from __future__ import annotations

import itertools
import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.engineview import rules
from ingress.engineview.rules import Resource, read
from stackpad.errors import InvalidRequest

ID = "c" * 64
FILTERS = json.dumps({"type": ["container", "network"], "event": ["start", "health_status"]})
LIST = "limit=-1&all=1&size=0&trunc_cmd=0"


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        ("/_ping", Resource.PING),
        ("/version", Resource.VERSION),
        ("/v1.41/version", Resource.VERSION),
        ("/v1.41/info", Resource.INFO),
        ("/v1.41/networks", Resource.NETWORKS),
        ("/v1.52/networks?filters=%7B%7D", Resource.NETWORKS),
        (f"/v1.41/containers/json?{LIST}", Resource.CONTAINERS),
        (f"/containers/json?{LIST}&{urlencode({'filters': json.dumps({'status': ['running']})})}", Resource.CONTAINERS),
        (f"/v1.41/containers/{ID}/json", Resource.CONTAINER),
        ("/containers/web-1.a_b/json?size=false", Resource.CONTAINER),
        ("/containers/json/json", Resource.CONTAINER),
        ("/v1.41/events", Resource.EVENTS),
        (f"/v1.41/events?{urlencode({'filters': FILTERS})}", Resource.EVENTS),
        ("/events?since=1764334800.000000001&until=1764334900", Resource.EVENTS),
    ],
)
def test_what_an_ingress_asks_is_passed_on(target: str, resource: Resource) -> None:
    question = read("GET", target, ["Host", "Accept"])
    assert question.resource is resource
    assert read("GET", question.target) == question, "what is passed on means what came"
    assert question.target.partition("?")[0] == target.partition("?")[0]


def test_what_it_looks_for_is_passed_on_whole() -> None:
    asked = f"/events?{urlencode({'filters': FILTERS})}"
    assert read("GET", asked).target == asked
    assert read("GET", asked.replace("%2C", ",").replace("+", "%20")).target == asked


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "get", "HEAD", "GE\x1bT"]
)
@pytest.mark.parametrize("target", ["/version", f"/v1.41/containers/{ID}/json", "/v1.41/networks", "/containers/json"])
def test_it_takes_get_only(method: str, target: str) -> None:
    with pytest.raises(InvalidRequest, match="only shows, so it takes GET") as error:
        read(method, target)
    assert str(error.value).startswith(f"{method} {target} " if method.isalpha() else "'GE\\x1bT'")


def test_a_ping_may_come_without_a_body() -> None:
    assert read("HEAD", "/_ping").resource is Resource.PING
    with pytest.raises(InvalidRequest, match="POST /_ping"):
        read("POST", "/_ping")


@pytest.mark.parametrize(
    "target",
    [
        "", "*", "/", "//", "/v1.41", "/v1.41/", "/v1.41/containers", "/v1.41//containers/json", "/v2.0/version",
        "/v1.411/info",
        "/containers/create", f"/containers/{ID}", f"/containers/{ID}/start", f"/containers/{ID}/logs",
        f"/containers/{ID}/top",
        f"/containers/{ID}/export", f"/containers/{ID}/archive?path=/etc/shadow", f"/containers/{ID}/attach/ws",
        f"/containers/{ID}/stats", f"/containers/{ID}/changes", f"/containers/{ID}/json/",
        f"/containers/{ID}/json/../../x/export",
        "/containers/../images/json", "/containers/..%2f..%2finfo/json", "/containers/%2e%2e/json",
        "/containers/a%00b/json",
        "/containers/./json", "/containers/../json", "/containers//json", "/containers/a/b/json",
        "/containers/a b/json",
        "/containers/-a/json", f"/containers/{'a' * 256}/json", "/containers/a\n/json", "/version\n",
        "/version\r\nX: y", "/versioN",
        "/version/", "/version;a", "/version#a", "/%76ersion", "/VERSION", "/v1.41/v1.41/version", "/networks/create",
        f"/networks/{ID}", "/networks/prune", "/images/json", "/images/x/json", "/volumes", "/plugins", "/secrets",
        "/configs",
        "/services", "/tasks", "/nodes", "/swarm", "/swarm/unlockkey", "/system/df", "/auth", "/build", "/session",
        "/grpc",
        f"/exec/{ID}/json", f"/exec/{ID}/start", "/distribution/x/json", "http://docker/version", "version",
        "\\version",
        "/containers/\u0661/json", f"/version?{'a' * rules.LONGEST}",
    ],
)  # fmt: skip
def test_everything_else_is_not(target: str) -> None:
    with pytest.raises(InvalidRequest, match="is not passed on to the engine: this view shows /_ping, ") as error:
        read("GET", target)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400
    assert str(error.value).startswith("GET ")


@pytest.mark.parametrize(
    "target",
    [
        f"/containers/{ID}/json?size=1", "/containers/json?size=true", "/version?a=b", "/_ping?x", "/info?all=1",
        "/containers/json?all=1&all=1", "/containers/json?all=2", "/containers/json?limit=x",
        "/containers/json?before=a",
        "/containers/json?since=a", "/containers/json?&", "/containers/json?all", "/containers/json?al%6c=1",
        "/containers/json?filters=%7B%22label%22%3A%5B%22a%22%5D%7D", "/containers/json?filters=",
        "/containers/json?filters=%5B%5D",
        "/containers/json?filters=%7B%22status%22%3A%22running%22%7D", "/containers/json?filters=%FF",
        f"/containers/json?filters={'%5B' * 1000}", "/containers/json?filters=%7B%22status%22%3A%5B%22a%26b%22%5D%7D",
        "/networks?filters=%7B%22driver%22%3A%5B%22a%22%5D%7D", "/events?filters=%7B%22image%22%3A%5B%22a%22%5D%7D",
        "/events?since=yesterday", "/events?since=-1", "/events?since=1&follow=1", "/events?since=1;until=2",
        "/events?since=\u0661",
        "/events?since=1#x", "/events?since=1?until=2", "/events?since=1\r\n", "/version?\u00e4",
        '/networks?filters={"a":1}',
    ],
)  # fmt: skip
def test_a_query_has_known_parameters_only(target: str) -> None:
    with pytest.raises(InvalidRequest, match="is not passed on to the engine: ") as error:
        read("GET", target)
    assert str(error.value).isprintable()
    assert str(error.value).startswith(f"GET {target.partition('?')[0]} ")


@pytest.mark.parametrize("header", ["Upgrade", "upgrade", "UPGRADE"])
def test_it_stays_http(header: str) -> None:
    with pytest.raises(InvalidRequest, match="GET /version is not passed on to the engine: it asks for another protocol"):
        read("GET", "/version", ["Host", header])


def test_it_takes_no_body() -> None:
    with pytest.raises(InvalidRequest, match="GET /version is not passed on to the engine: it has a body"):
        read("GET", "/version", body=True)


_PIECES = st.sampled_from(
    ["/", "..", ".", "%2e", "%2f", "v1.41", "containers", "json", "version", "events", "?", "&", "=", "filters",
     "size", "0",
     "1", "all", "#", " ", "\r\n", "\x00", "%", "\u00e4", "create", "start", ID, "exec", "{", '"', "info", "networks"]
)  # fmt: skip
_PLAIN = {"/_ping", "/version", "/info", "/events", "/networks", "/containers/json"}


@given(st.lists(_PIECES, max_size=12), st.sampled_from(["", "/v1.41"]))
def test_nothing_gets_by_however_it_is_put_together(pieces: list[str], prefix: str) -> None:
    try:
        question = read("GET", prefix + "".join(pieces))
    except InvalidRequest:
        return
    path, _, query = question.target.partition("?")
    rest = path.removeprefix("/v1.41")
    steps = rest.split("/")
    assert rest in _PLAIN or (len(steps) == 4 and (steps[1], steps[3]) == ("containers", "json"))
    assert ".." not in steps
    assert all(32 < ord(c) < 127 for c in question.target)
    assert {pair.partition("=")[0] for pair in query.split("&") if pair} <= {
        "all", "limit", "trunc_cmd", "size", "filters", "since", "until"
    }  # fmt: skip


def test_pieces_get_by_sometimes() -> None:
    """Or the one above would show nothing."""
    passed = 0
    for pieces in itertools.product(
        ["/version", "/info", f"/containers/{ID}/json", "/exec"], ["", "?", "?size=0", "/.."]
    ):
        try:
            read("GET", "".join(pieces))
            passed += 1
        except InvalidRequest:
            pass
    assert passed == 7
