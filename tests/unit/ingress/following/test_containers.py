"""What the engine says of a container, as 20.10 and 28 write it, and what follows for us."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.following import containers
from ingress.following.containers import Surroundings
from ingress.routes import Problem, State, WebContainer

ID = "c" * 64
NET, OTHER = "n" * 64, "o" * 64
AROUND = Surroundings(
    {NET: ("my-app-production", "stackpad"), OTHER: ("bridge", "bridge")},
    frozenset({"stackpad", "stackpad/net:latest"}),
    "acme",
    "stackpad.test",
)


def inspected(**changes: Any) -> dict[str, Any]:
    """``GET /containers/{id}/json`` of a running web container; ``changes`` by path, with ``__`` between the steps."""
    raw: dict[str, Any] = {
        "Id": ID,
        "Name": "/web-1",
        "Created": "2026-11-23T13:14:15.250000000Z",
        "State": {"Running": True, "Paused": False, "Restarting": False, "StartedAt": "2026-11-23T13:14:16Z"},
        "Config": {"Labels": {"stackpad.type": "web", "stackpad.port": "8080"}, "ExposedPorts": {"80/tcp": {}}},
        "NetworkSettings": {
            "Networks": {
                "my-app-production": {"NetworkID": NET, "IPAddress": "10.192.0.2", "GlobalIPv6Address": "fd00::2"}
            }
        },
    }
    for path, value in changes.items():
        *steps, last = path.split("__")
        place = raw
        for step in steps:
            place = place[step]
        place[last] = value
    return raw


def web(raw: dict[str, Any]) -> WebContainer:
    found = containers.read(raw, AROUND)
    assert isinstance(found, WebContainer), found
    return found


def problem(raw: dict[str, Any]) -> str:
    found = containers.read(raw, AROUND)
    assert isinstance(found, Problem), found
    assert (found.container, found.name) == (ID, "web-1")
    return found.text


def test_a_running_web_container() -> None:
    found = web(inspected())
    assert (found.name, found.upstream, found.owner) == ("web-1", "10.192.0.2:8080", "acme/my-app/production")
    assert (found.request.service, found.since, found.checked) == ("web", 1795439655.25, False)
    assert (found.state, found.reason) == (State.STARTING, "nothing accepts on its port 8080 yet")


@pytest.mark.parametrize(
    ("state", "doing", "words"),
    [
        ({"Running": False}, State.DOWN, "not running"),
        ({"Running": True, "Paused": True}, State.DOWN, "paused"),
        ({"Running": True, "Restarting": True}, State.DOWN, "started again"),
        ({"Running": True, "Health": {"Status": "starting"}}, State.STARTING, "not passed yet"),
        ({"Running": True, "Health": {"Status": "healthy"}}, State.UP, ""),
        ({"Running": True, "Health": {"Status": "unhealthy"}}, State.UNHEALTHY, "health check fails"),
        ({"Running": True, "Health": {"Status": "none"}}, State.STARTING, "nothing accepts"),
        ({}, State.DOWN, "not running"),
    ],
)
def test_states(state: dict[str, Any], doing: State, words: str) -> None:
    found = web(inspected(State=state))
    assert found.state is doing
    assert words in found.reason
    assert bool(found.reason) is (doing is not State.UP)


def test_ipv6_where_there_is_no_ipv4() -> None:
    found = web(
        inspected(NetworkSettings__Networks={"x": {"NetworkID": NET, "IPAddress": "", "GlobalIPv6Address": "fd00::2"}})
    )
    assert found.upstream == "[fd00::2]:8080"


def test_a_container_that_never_started_has_the_name_of_its_network_only() -> None:
    there = {"my-app-production": {"NetworkID": "", "IPAddress": "", "GlobalIPv6Address": ""}}
    found = web(inspected(NetworkSettings__Networks=there, State={"Running": False}))
    assert (found.owner, found.address, found.state) == ("acme/my-app/production", None, State.DOWN)


def test_our_network_is_found_among_others() -> None:
    there = {
        "bridge": {"NetworkID": OTHER, "IPAddress": "172.17.0.2"},
        "my-app-production": {"NetworkID": NET, "IPAddress": "10.192.0.9"},
    }
    assert web(inspected(NetworkSettings__Networks=there)).address == "10.192.0.9"


@pytest.mark.parametrize(
    ("made_with", "address"),
    [
        ("my-app-production", "10.192.0.9"),
        (NET, "10.192.0.9"),
        (NET[:12], "10.192.0.9"),
        ("aa-shared", "10.192.7.1"),
        ("gone", "10.192.7.1"),
    ],
)
def test_it_is_served_in_the_network_it_was_made_with(made_with: str, address: str) -> None:
    shared = "s" * 64
    there = {
        "aa-shared": {"NetworkID": shared, "IPAddress": "10.192.7.1"},
        "my-app-production": {"NetworkID": NET, "IPAddress": "10.192.0.9"},
    }
    around = replace(AROUND, networks={**AROUND.networks, shared: ("aa-shared", "stackpad")})
    found = containers.read(inspected(NetworkSettings__Networks=there, HostConfig={"NetworkMode": made_with}), around)
    assert isinstance(found, WebContainer)
    assert found.address == address


def test_a_networks_option_says_which_environment_it_joins() -> None:
    """Also of a container that was never started, which has its network's name only; Docker's own know no such option."""
    listed: list[dict[str, Any]] = [
        {"Id": NET, "Name": "here", "Driver": "stackpad", "Options": {"stackpad.environment": "my-app-production"}},
        {"Id": OTHER, "Name": "plain", "Driver": "stackpad", "Options": None},
        {"Id": "b" * 64, "Name": "bridged", "Driver": "bridge", "Options": {"stackpad.environment": "my-app-production"}},
    ]
    around = replace(AROUND, drivers=AROUND.drivers | {"bridge"}).with_networks(listed)

    def apart(name: str, network_id: str) -> str | None:
        there = {name: {"NetworkID": network_id, "IPAddress": "10.192.0.2"}}
        labelled = {"stackpad.type": "web", "stackpad.port": "80", "stackpad.project": "x"}
        found = containers.read(inspected(NetworkSettings__Networks=there, Config__Labels=labelled), around)
        assert isinstance(found, WebContainer)
        return found.apart

    assert apart("here", NET) == apart("here", "") == "my-app-production"
    assert (apart("plain", OTHER), apart("bridged", "b" * 64)) == ("plain", "bridged")


def test_an_engine_view_that_shows_no_options_says_nothing_of_environments() -> None:
    plain = {"Id": NET, "Name": "my-app-production", "Driver": "stackpad"}
    around = AROUND.with_networks([plain])
    found = containers.read(inspected(), around)
    assert isinstance(found, WebContainer)
    assert (found.joined, found.apart, around.vague) == (None, None, True)
    assert not AROUND.with_networks([{**plain, "Options": {}}]).vague
    assert not AROUND.with_networks([{**plain, "Driver": "bridge"}]).vague


@pytest.mark.parametrize("there", [{}, {"bridge": {"NetworkID": OTHER, "IPAddress": "172.17.0.2"}}, None])
def test_on_no_network_of_ours(there: Any) -> None:
    assert "connect it to one made with docker network create -d stackpad" in problem(
        inspected(NetworkSettings__Networks=there)
    )


@pytest.mark.parametrize(
    ("exposed", "port"), [({"80/tcp": {}}, 80), ({"80/tcp": {}, "53/udp": {}}, 80), ({"65535/tcp": {}}, 65535)]
)
def test_the_only_exposed_port_is_the_port(exposed: dict[str, Any], port: int) -> None:
    raw = inspected(Config__ExposedPorts=exposed, Config__Labels={"stackpad.type": "web"})
    assert web(raw).port == port


@pytest.mark.parametrize(
    ("exposed", "words"),
    [
        (None, "exposes no port"),
        ({}, "exposes no port"),
        ({"53/udp": {}}, "exposes no port"),
        ({"80/tcp": {}, "8080/tcp": {}}, "exposes 80, 8080; say which"),
        ({"{env.X}/tcp": {}}, "exposes no port"),
        ({"99999/tcp": {}}, "say which"),
        ({"٣/tcp": {}}, "exposes no port"),
        ({"80-90/tcp": {}}, "exposes no port"),
    ],
)
def test_no_port_to_choose(exposed: Any, words: str) -> None:
    said = problem(inspected(Config__ExposedPorts=exposed, Config__Labels={"stackpad.type": "web"}))
    assert words in said
    assert "stackpad.port=8080" in said


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (None, {"9", "15"}),
        ("", {"9", "15"}),
        ("SIGQUIT", {"9", "15", "3"}),
        ("QUIT", {"9", "15", "3"}),
        ("28", {"9", "15", "28"}),
        ("sigwinch", {"9", "15", "28"}),
        ("RTMIN+3", {"9", "15"}),
    ],
)
def test_the_signals_that_ask_it_to_end(given: str | None, numbers: set[str]) -> None:
    assert web(inspected(Config__StopSignal=given)).last_signals == numbers


@pytest.mark.parametrize("kind", ["database", "cache", "generic"])
def test_other_kinds_are_none_of_ours(kind: str) -> None:
    assert containers.read(inspected(Config__Labels={"stackpad.type": kind}), AROUND) is None
    assert containers.read(inspected(Config__Labels=None), AROUND) is None


@pytest.mark.parametrize("kind", ["Web", "wbe", "", "{x}"])
def test_a_kind_there_is_not(kind: str) -> None:
    assert "use one of web, database, cache, generic" in problem(inspected(Config__Labels={"stackpad.type": kind}))


def test_an_unknown_label_of_any_container_is_told() -> None:
    labels = {"stackpad.type": "database", "stackpad.envrionment": "x"}
    assert "did you mean stackpad.environment?" in problem(inspected(Config__Labels=labels))


ATTACHED = {"NetworkID": NET, "EndpointID": "e1" * 32, "IPAddress": "10.0.0.2", "GlobalIPv6Address": ""}
LISTED: dict[str, Any] = {
    "Id": ID,
    "Names": ["/web-1"],
    "State": "running",
    "Status": "Up 3 minutes (healthy)",
    "Labels": {"stackpad.type": "web"},
    "NetworkSettings": {"Networks": {"x": ATTACHED}},
}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"Status": "Up 4 hours (healthy)"}, True),
        ({"Status": "Up 4 hours (unhealthy)"}, False),
        ({"Status": "Up 3 minutes (Paused)", "State": "paused"}, False),
        ({"State": "exited", "Status": "Exited (0) 3 seconds ago"}, False),
        ({"Names": ["/other"]}, False),
        ({"NetworkSettings": {"Networks": {"x": {**ATTACHED, "IPAddress": "10.0.0.3"}}}}, False),
        ({"NetworkSettings": {"Networks": {"x": {**ATTACHED, "EndpointID": "e2" * 32}}}}, False),
        ({"NetworkSettings": {"Networks": {}}}, False),
        ({"Created": 5, "SizeRw": 3}, True),
    ],
)
def test_what_has_to_be_looked_at_again(change: dict[str, Any], same: bool) -> None:
    assert (containers.fingerprint({**LISTED, **change}) == containers.fingerprint(LISTED)) is same


def test_how_long_ago_something_ended_is_no_change() -> None:
    ended = {**LISTED, "State": "exited"}
    assert containers.fingerprint({**ended, "Status": "Exited (0) 3 seconds ago"}) == containers.fingerprint(
        {**ended, "Status": "Exited (0) About a minute ago"}
    )


TEXT = st.one_of(st.none(), st.text(max_size=20))


@given(
    st.dictionaries(st.sampled_from(["stackpad.type", "stackpad.port", "stackpad.x", "a"]), st.text(max_size=9)),
    st.dictionaries(st.text(max_size=9), st.just({})),
    TEXT,
    TEXT,
)
def test_whatever_an_image_says_there_is_an_answer(
    labels: dict[str, str], exposed: dict[str, Any], stop_signal: str | None, created: str | None
) -> None:
    raw = inspected(
        Config__Labels={"stackpad.type": "web", **labels},
        Config__ExposedPorts=exposed,
        Config__StopSignal=stop_signal,
        Created=created,
    )
    before = copy.deepcopy(raw)
    found = containers.read(raw, AROUND)
    assert found is None or isinstance(found, (Problem, WebContainer))
    assert raw == before
    if isinstance(found, Problem):
        assert found.text.isprintable()
