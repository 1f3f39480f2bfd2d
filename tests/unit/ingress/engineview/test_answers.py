"""What is shown of the engine's answers: all that an ingress reads, and nothing besides."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.engineview import answers
from ingress.engineview.rules import Resource
from ingress.following import containers
from stackpad.errors import Unavailable
from tests.unit.ingress.following.test_containers import AROUND, ID, NET, inspected

HIDDEN = "hunter2"


def shown(resource: Resource, value: Any) -> Any:
    return json.loads(answers.shown(resource, json.dumps(value).encode()))


def full(**changes: Any) -> dict[str, Any]:
    """What a real engine says of a container, with a secret wherever it is none of an ingress's business."""
    raw = inspected(**changes)
    raw |= {"Path": HIDDEN, "Args": [HIDDEN], "Driver": HIDDEN, "LogPath": HIDDEN, "Image": HIDDEN, "ExecIDs": [HIDDEN]}
    raw["HostConfig"] = {"Binds": [HIDDEN], "NetworkMode": "x", "LogConfig": {"Config": {"a": HIDDEN}}}
    raw["Mounts"] = [{"Source": HIDDEN}]
    raw["GraphDriver"] = {"Data": {"MergedDir": HIDDEN}}
    raw["State"] |= {"Error": HIDDEN, "Pid": 4711}
    if "Health" in raw["State"]:
        raw["State"]["Health"]["Log"] = [{"Output": HIDDEN}]
    raw["Config"] |= {"Env": [f"PASSWORD={HIDDEN}"], "Cmd": [HIDDEN], "Entrypoint": [HIDDEN], "Hostname": HIDDEN}
    raw["Config"] |= {"Healthcheck": {"Test": ["CMD", HIDDEN]}, "Volumes": {HIDDEN: {}}}
    raw["Config"]["Labels"] = {**(raw["Config"]["Labels"] or {}), "org.example.token": HIDDEN}
    for there in (raw["NetworkSettings"].get("Networks") or {}).values():
        there |= {"Aliases": [HIDDEN], "Gateway": HIDDEN, "DriverOpts": {"a": HIDDEN}, "MacAddress": HIDDEN}
    raw["NetworkSettings"] |= {"SandboxKey": HIDDEN, "Ports": {HIDDEN: None}}
    return raw


CASES: list[dict[str, Any]] = [
    {},
    {"State": {"Running": False}},
    {"State": {"Running": True, "Paused": True, "StartedAt": "x"}},
    {"State": {"Running": True, "Restarting": True}},
    *({"State": {"Running": True, "Health": {"Status": status}}} for status in ("starting", "healthy", "unhealthy",
    "none", "")),
    {"Config__Labels": {"stackpad.type": "web"}},
    {"Config__Labels": {"stackpad.type": "web"}, "Config__ExposedPorts": None},
    {"Config__Labels": {"stackpad.type": "web", "com.docker.compose.service": "shop"}, "Config__StopSignal": "SIGQUIT"},
    {"Config__Labels": {"stackpad.typo": "web"}},
    {"Config__Labels": {"stackpad.type": "web", "stackpad.port": "80", "stackpad.auth": "a:$2y$10$" + "a" * 53}},
    {"NetworkSettings__Networks": None},
    {"NetworkSettings__Networks": {"my-app-production": {"NetworkID": "", "IPAddress": "", "GlobalIPv6Address": ""}}},
    {"NetworkSettings__Networks": {"x": {"NetworkID": NET, "IPAddress": "10.192.0.2", "EndpointID": "e" * 64}}},
    {"NetworkSettings__Networks": {"a": {"NetworkID": NET, "IPAddress": "10.192.0.1"},
                                   "x": {"NetworkID": NET, "IPAddress": "10.192.0.2"}}},
]  # fmt: skip


@pytest.mark.parametrize("changes", CASES)
def test_a_container_is_read_as_if_all_was_shown(changes: dict[str, Any]) -> None:
    raw = full(**changes)
    reduced = shown(Resource.CONTAINER, raw)
    assert containers.read(reduced, AROUND) == containers.read(raw, AROUND)
    assert AROUND.knows(reduced) is AROUND.knows(raw)
    assert HIDDEN not in json.dumps(reduced)


@pytest.mark.parametrize("given_labels", [None, {}, {"com.docker.compose.service": "shop", "a": "b"}])
def test_what_says_nothing_to_us_is_its_id(given_labels: dict[str, str] | None) -> None:
    assert shown(Resource.CONTAINER, full(Config__Labels=given_labels)) == {"Id": ID}
    assert shown(Resource.CONTAINERS, [listed(given_labels)]) == []


def listed(given_labels: dict[str, str] | None) -> dict[str, Any]:
    return {
        "Id": ID, "Names": ["/web-1"], "Image": HIDDEN, "ImageID": HIDDEN, "Command": HIDDEN, "Created": 1764334800,
        "Ports": [{"IP": HIDDEN}], "Labels": given_labels, "State": "running", "Status": "Up 3 seconds (healthy)",
        "HostConfig": {"NetworkMode": HIDDEN}, "Mounts": [{"Source": HIDDEN}],
        "NetworkSettings": {"Networks": {"x": {"NetworkID": NET, "EndpointID": "e1" * 32, "IPAddress": "10.0.0.2",
        "GlobalIPv6Address": "", "Aliases": [HIDDEN]}}},
    }  # fmt: skip


def test_a_list_is_read_as_if_all_was_shown() -> None:
    raw = listed({"stackpad.type": "web", "org.example.token": HIDDEN})
    (reduced,) = shown(Resource.CONTAINERS, [raw])
    assert containers.fingerprint(reduced) == containers.fingerprint(raw)
    assert containers.concern(reduced)
    assert reduced["Id"] == ID
    assert HIDDEN not in json.dumps(reduced)


def test_the_rest_is_what_is_read_of_it() -> None:
    networks = [
        {
            "Id": NET,
            "Name": "a",
            "Driver": "stackpad",
            "IPAM": {"Config": [HIDDEN]},
            "Options": {"a": HIDDEN, "stackpad.environment": "b"},
            "Labels": {},
        }
    ]
    assert shown(Resource.NETWORKS, networks) == [
        {"Id": NET, "Name": "a", "Driver": "stackpad", "Options": {"stackpad.environment": "b"}}
    ]
    for none in ({}, {"Options": None}, {"Options": {"a": HIDDEN}}):
        bare = {"Id": NET, "Name": "a", "Driver": "stackpad"}
        assert shown(Resource.NETWORKS, [bare | none]) == [{**bare, "Options": {}}]
    assert shown(Resource.INFO, {"Name": "n1", "HttpProxy": HIDDEN, "Labels": [HIDDEN]}) == {"Name": "n1"}
    version = {"Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24", "KernelVersion": HIDDEN}
    assert shown(Resource.VERSION, version) == {key: version[key] for key in ("Version", "ApiVersion", "MinAPIVersion")}
    assert answers.shown(Resource.PING, HIDDEN.encode()) == b"OK"


@pytest.mark.parametrize(
    ("resource", "body"),
    [
        (Resource.CONTAINERS, b"{}"), (Resource.CONTAINERS, b"[{}]"), (Resource.CONTAINER, b"[]"),
        (Resource.CONTAINER, b""),
        (Resource.CONTAINER, b'{"Id":1}'), (Resource.CONTAINER, b'{"Id":"a","Name":"\xff"}'),
        (Resource.NETWORKS, b"null"),
        (Resource.VERSION, b"[" * 100_000),
    ],
)  # fmt: skip
def test_what_is_no_such_answer_is_not_passed_on(resource: Resource, body: bytes) -> None:
    with pytest.raises(Unavailable, match="the engine answers something else than expected"):
        answers.shown(resource, body)


def told(**changes: Any) -> bytes:
    attributes = {"stackpad.type": "web", "name": HIDDEN, "image": HIDDEN, "signal": "15", "org.example.token": HIDDEN}
    event = {
        "status": HIDDEN,
        "from": HIDDEN,
        "Type": "container",
        "Action": "kill",
        "time": 1764334800,
        "scope": "local",
    }
    return json.dumps({**event, "Actor": {"ID": ID, "Attributes": attributes}, **changes}).encode()


def test_of_an_event_that_is_shown_which_is_acted_on() -> None:
    line = answers.event(told())
    assert line is not None
    assert json.loads(line) == {
        "Type": "container", "Action": "kill", "Actor": {"ID": ID, "Attributes": {"stackpad.type": "web",
        "signal": "15"}}
    }  # fmt: skip
    assert line.endswith(b"\n")
    health = answers.event(told(Action="health_status: healthy"))
    assert health is not None
    assert json.loads(health)["Action"] == "health_status: healthy"


def test_of_a_networks_events_who_came_and_went_is_shown() -> None:
    attributes = {"container": ID, "name": HIDDEN, "type": HIDDEN}
    line = answers.event(told(Type="network", Action="connect", Actor={"ID": NET, "Attributes": attributes}))
    assert line is not None
    assert json.loads(line) == {
        "Type": "network",
        "Action": "connect",
        "Actor": {"ID": NET, "Attributes": {"container": ID}},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"Action": f"exec_create: mysql -p{HIDDEN}"}, {"Action": "create"}, {"Action": "attach"}, {"Type": "volume"},
        {"Type": "image"}, {"Actor": {"ID": ID, "Attributes": {"signal": "15"}}}, {"Actor": {"ID": ID}},
        {"Actor": None},
    ],
)  # fmt: skip
def test_other_events_are_nobodys_business(changes: dict[str, Any]) -> None:
    assert answers.event(told(**changes)) is None


def test_errors_are_the_engines_words() -> None:
    assert answers.error(b'{"message":"No such container: x","more":1}') == b'{"message":"No such container: x"}'
    assert answers.error(b"<html>") == b'{"message":"the engine gives no reason"}'
    assert len(answers.error(json.dumps({"message": "x" * 5000}).encode())) < 600


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Id", "Config", "Labels", "State"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from([one for one in Resource if one is not Resource.EVENTS]), _JSON | st.binary(max_size=20))
def test_whatever_an_engine_says_is_an_answer_or_a_reason(resource: Resource, said: Any) -> None:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    with contextlib.suppress(Unavailable):
        answers.shown(resource, body)
    with contextlib.suppress(Unavailable):
        answers.event(body)
