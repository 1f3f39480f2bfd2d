"""From what the engine says of a container to what we know of it; pure.

Reads the JSON of ``GET /containers/{id}/json`` and of the list. A container's image and creator are a tenant's: whatever
they wrote, the answer is a container, a sentence about what is wrong, or nothing of interest.
"""

from __future__ import annotations

import calendar
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ingress.routes import Problem, State, WebContainer
from stackpad import labels
from stackpad.errors import InvalidRequest
from stackpad.labels import ENVIRONMENT, Kind

STOP_SIGNALS = {"9", "15"}
"""SIGKILL and SIGTERM, beside a container's own stop signal: who gets one is not asked for anything new."""

DOCKERS_OWN = {"bridge", "overlay", "macvlan", "ipvlan"}
"""Drivers whose containers our plugin knows nothing of."""


RESTARTING = "it ended and is being started again"
ASKED_TO_STOP = "it was asked to stop"
"""Reasons for being down that say more than that."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container is read against: networks by id (name, driver), and the operator's settings.

    ``joined`` are the environments of those networks whose option names one, by the network's id; ``None`` of a network
    whose options are not shown, as an engine view from before they were read does.
    """

    networks: Mapping[str, tuple[str, str]]
    drivers: frozenset[str]
    org: str
    base_domain: str
    joined: Mapping[str, str | None] = field(default_factory=dict)

    def with_networks(self, listed: Iterable[Mapping[str, Any]]) -> Surroundings:
        """The same with the networks that the engine lists."""
        networks: dict[str, tuple[str, str]] = {}
        joined: dict[str, str | None] = {}
        for one in listed:
            networks[one["Id"]] = one["Name"], one["Driver"]
            if one["Driver"] in DOCKERS_OWN:
                continue  # the option means nothing to these, and such networks are never one
            if "Options" not in one:
                joined[one["Id"]] = None
            elif environment := str((one["Options"] or {}).get(ENVIRONMENT) or ""):
                joined[one["Id"]] = environment
        return replace(self, networks=networks, joined=joined)

    def knows(self, raw: Mapping[str, Any]) -> bool:
        """Whether all the container's networks are known, so that reading it gives the whole truth."""
        return all(entry.get("NetworkID") in self.networks for entry in _attached(raw).values())

    @property
    def vague(self) -> bool:
        """Whether of any network it is not known which environment it is."""
        return None in self.joined.values()


def concern(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of the list says anything to us; ``entry`` has its labels at the top."""
    return labels.concerns(entry.get("Labels") or {})


def fingerprint(entry: Mapping[str, Any]) -> tuple[object, ...]:
    """What of an entry of the list changes when the container does, as far as we care: no inspection is due without.

    One that was started again has another endpoint, and may be the same in all else: its engine has kept its address.
    """
    status = str(entry.get("Status", ""))
    return (
        tuple(entry.get("Names") or ()),
        entry.get("State"),
        status[status.find("(") :] if str(entry.get("State")) == "running" and "(" in status else "",
        tuple(
            sorted(
                (name, *(str(there.get(key)) for key in ("NetworkID", "EndpointID", "IPAddress", "GlobalIPv6Address")))
                for name, there in _attached(entry).items()
            )
        ),
    )


def read(raw: Mapping[str, Any], around: Surroundings) -> WebContainer | Problem | None:
    """What an inspected container is to us; ``None`` if it is no web service and says nothing wrong."""
    config = raw.get("Config") or {}
    given = config.get("Labels") or {}
    name = str(raw.get("Name", "")).lstrip("/")
    container_id = str(raw.get("Id", ""))
    if not labels.concerns(given):
        return None
    try:
        if given.get(labels.TYPE) != Kind.WEB:
            labels.check(given)
            return None
        network, address, endpoint, joined = _attachment(raw, around)
        request = labels.web(given, name=name, network=network, org=around.org, base_domain=around.base_domain)
        port = request.port or _only_port(config.get("ExposedPorts") or {})
    except InvalidRequest as error:
        return Problem(container_id, name, str(error))
    state = raw.get("State") or {}
    doing, reason = _state(state, address, port)
    return WebContainer(
        id=container_id,
        name=name,
        request=request,
        address=address,
        port=port,
        state=doing,
        reason=reason,
        since=_seconds(raw.get("Created")),
        started=str(state.get("StartedAt", "")),
        checked=bool(state.get("Health")),
        network=network,
        labels=tuple(sorted((key, value) for key, value in given.items() if labels.ours(key))),
        endpoint=endpoint,
        joined=joined,
        last_signals=frozenset({*STOP_SIGNALS, _signal_number(str(config.get("StopSignal") or "SIGTERM"))}),
    )


def _attached(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return (raw.get("NetworkSettings") or {}).get("Networks") or {}


def _attachment(raw: Mapping[str, Any], around: Surroundings) -> tuple[str, str | None, str, str | None]:
    """Name of the container's network with us, its address there (``None`` while stopped), its endpoint's id, and what
    environment the network's option names (``None``: not known).

    Of several it is the one that the container was made with: what it is connected to later changes nothing of where it
    is served. Without that one, the first by name.
    """
    by_name = {name: key for key, (name, _) in around.networks.items()}
    made_with = str((raw.get("HostConfig") or {}).get("NetworkMode") or "")

    def order(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, str]:
        name, network_id = item[0], str(item[1].get("NetworkID") or "")
        # By its name, its id, or as much of that as was needed to say which one.
        return made_with not in {name, network_id}, not (made_with and network_id.startswith(made_with)), name

    for given_name, entry in sorted(_attached(raw).items(), key=order):
        # A container that was created and never started has the name of its network only.
        key = entry.get("NetworkID") or ""
        key = key if key in around.networks else by_name.get(given_name, "")
        name, driver = around.networks.get(key, ("", ""))
        if driver in around.drivers:
            address = entry.get("IPAddress") or entry.get("GlobalIPv6Address") or None
            endpoint = "" if driver in DOCKERS_OWN else str(entry.get("EndpointID") or "")
            return name, address, endpoint, around.joined.get(key, "")
    raise InvalidRequest(
        "the container is on no network of ours; connect it to one made with docker network create -d stackpad"
    )


def _only_port(exposed: Mapping[str, Any]) -> int:
    texts = [text.partition("/")[0] for text in exposed if text.endswith("/tcp")]
    ports = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= 5]
    if len(texts) != 1 or len(ports) != 1 or not 1 <= ports[0] <= 65535:
        shown = ", ".join(str(port) for port in sorted(ports)[:5])
        what = f"its image exposes {shown}" if shown else "its image exposes no port"
        raise InvalidRequest(f"{what}; say which with the label {labels.PORT}, as in {labels.PORT}=8080")
    return ports[0]


def _state(state: Mapping[str, Any], address: str | None, port: int) -> tuple[State, str]:
    if state.get("Paused"):
        return State.DOWN, "it is paused"
    if state.get("Restarting"):
        return State.DOWN, RESTARTING
    if not state.get("Running"):
        return State.DOWN, "it is not running"
    if address is None:
        return State.DOWN, "it has no address on its network"
    health = (state.get("Health") or {}).get("Status", "none")
    if health == "healthy":
        return State.UP, ""
    if health == "unhealthy":
        return State.UNHEALTHY, "its health check fails"
    if health == "starting":
        return State.STARTING, "its health check has not passed yet"
    # Without a health check the port decides; until it has accepted once, that is "starting" too.
    return State.STARTING, f"nothing accepts on its port {port} yet"


def _signal_number(text: str) -> str:
    """A stop signal as events name it, by its number: images say ``SIGQUIT``, ``QUIT`` or ``3``."""
    if text.isdigit():
        return text
    name = text.upper()
    try:
        return str(int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]))
    except KeyError:
        return "15"


def _seconds(text: Any) -> float:
    """Unix time of an RFC 3339 time in UTC, as the engine writes it, with its fraction; 0 if it is none."""
    whole, _, rest = str(text or "").partition(".")
    fraction = rest.rstrip("Z")
    try:
        begun = calendar.timegm(time.strptime(whole.rstrip("Z"), "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0
    return begun + (float(f"0.{fraction}") if fraction.isascii() and fraction.isdigit() else 0.0)
