"""Finds out what ``stackpad doctor`` wants to know; reads only, and survives whatever is not there."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stackpad.cli import client, daemonjson
from stackpad.cli.facts import DRIVERS, Facts, Unknown
from stackpad.cli.reports import ClusterReport, NetworkReport, Routes, Status
from stackpad.errors import StackpadError, Unavailable
from stackpad.listening import Place

T = TypeVar("T")

_SIOCGIFMTU = 0x8921
_TIMEOUT = 10.0
_PATIENCE = 2.0
"""Seconds for the resolver, which is on this node."""

_QUESTION = b"\x07version\x04bind\x00" + struct.pack(">HH", 16, 3)
"""For a text of the class CHAOS: every server answers it by itself, ours with a refusal, and none asks elsewhere."""


KEPT = ("claims.json", "proof.key")
"""What an ingress has that nobody can learn anew; an earlier one had it among the plugin's files."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on a node; the defaults are a real one's."""

    plugin: Path = Path("/run/stackpad/net.sock")
    ingress: Path = field(default_factory=lambda: _of_ingress("ingress.sock"))
    page: Path = field(default_factory=lambda: _of_ingress("page.sock"))
    plain: Path = Path("/run/docker/plugins/stackpad.sock")
    engine: Path = Path("/run/docker.sock")
    caddy: Path = Path("/run/caddy/admin.sock")
    daemon_json: Path = Path("/etc/docker/daemon.json")
    proc: Path = Path("/proc")
    state: Path = Path("/var/lib/stackpad")


def _of_ingress(name: str) -> Path:
    """A socket of the ingress's; an earlier one had no directory of its own."""
    return Place(Path("/run/stackpad/ingress", name), Path("/run/stackpad", name)).now


class _EngineNetwork(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    driver: str = msgspec.field(name="Driver")


class _Attachment(msgspec.Struct):
    endpoint: str = msgspec.field(name="EndpointID", default="")


class _Attachments(msgspec.Struct):
    networks: dict[str, _Attachment] | None = msgspec.field(name="Networks", default=None)


class _EngineContainer(msgspec.Struct):
    settings: _Attachments | None = msgspec.field(name="NetworkSettings", default=None)


def ended(state: Path) -> str:
    """What to say of an ingress that has no socket: that there was one, as its state shows; empty if there was none."""
    there = (directory / name for directory in (state / "ingress", state) for name in KEPT)
    # os.path: Path.exists raises where somebody may not look.
    found = next((path for path in there if os.path.exists(path)), None)
    return "" if found is None else f"there was an ingress on this node ({found} is its), and it does not run"


def elsewhere(place: Path) -> str:
    """What to say of a plugin's socket that is another network's, reached through ``/proc``; empty if it is not.

    What there is to check, rules, links and settings, would be this network's, and the remedies would be wrong.
    """
    if place.parts[1:2] != ("proc",) or place.parts[3:4] != ("root",):
        return ""
    pid = place.parts[2]
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return ""
    except (FileNotFoundError, ProcessLookupError):
        return f"--socket {place}: there is no process {pid} any more"
    except PermissionError as error:
        return f"--socket {place}: where process {pid} runs is root's to see: {error}"
    return (
        f"--socket {place} is of a plugin in another network namespace, and doctor looks at the one it runs in; "
        f"run it there: nsenter --target {pid} --mount --net stackpad doctor"
    )


def examine(places: Places) -> Facts:
    """Look at everything once."""
    plugin, engine = client.plugin(places.plugin), client.engine(places.engine)
    networks = _try(lambda: client.fetch(plugin, "/networks", tuple[NetworkReport, ...]))
    ipv6 = not isinstance(networks, Unknown) and any(":" in pool for report in networks for pool in report.subnets)
    return Facts(
        status=_try(lambda: client.fetch(plugin, "/status", Status)),
        networks=networks,
        plain_socket=_try(lambda: _activate(places.plain)),
        engine_version=_try(lambda: str(client.fetch(engine, "/version", dict[str, Any]).get("Version", ""))),
        engine_networks=_try(lambda: _engine_networks(engine)),
        engine_endpoints=_try(lambda: _engine_endpoints(engine)),
        forwarding=_forwarding(places.proc, ipv6=ipv6),
        tables=_try(_tables),
        firewalld=_try(
            lambda: _run("nft", "list", "table", "inet", "firewalld") if "inet firewalld" in _tables() else ""
        ),
        filters={
            tool: _try(lambda tool=tool: _run(tool, "-S"))  # type: ignore[misc]
            for tool in ("iptables", *(["ip6tables"] if ipv6 else []))
        },
        mtus={} if isinstance(networks, Unknown) else _mtus(report.bridge for report in networks),
        ingress=_ingress(places),
        cluster=_try(lambda: client.fetch(plugin, "/cluster?round-trip", ClusterReport)),
        engine_pools=_try(lambda: _engine_pools(engine)),
        daemon_json=_try(lambda: daemonjson.read(places.daemon_json)[1]),
        resolver=_try(_resolver),
        resolvers_away=_try(lambda: _resolvers_away(places.proc)),
        connections=_connections(places.proc),
        caddy=_try(lambda: _caddy(places.caddy)) if os.path.exists(places.caddy) else None,
        left=tuple(str(places.state / name) for name in KEPT if _left(places.state, name)),
    )


def _ingress(places: Places) -> Routes | Unknown | None:
    if os.path.exists(places.ingress):
        return _try(lambda: client.fetch(client.ingress(places.ingress), "/routes", Routes))
    was = ended(places.state)
    return Unknown(was) if was else None


def _left(state: Path, name: str) -> bool:
    """Whether an earlier ingress has kept this, and the one of today goes by another."""
    # Path.exists raises where somebody may not look, as without root below the plugin's directory.
    return os.path.exists(state / name) and os.path.exists(state / "ingress" / name)


def _try(look: Callable[[], T]) -> T | Unknown:
    try:
        return look()
    except StackpadError as error:
        return Unknown(str(error))


def _activate(path: Path) -> str:
    """The handshake that the engine makes with a plugin of that name."""
    server = client.plugin(path)
    answer = client.fetch(server, "/Plugin.Activate", dict[str, Any], method="POST")
    if "NetworkDriver" not in (answer.get("Implements") or ()):
        raise Unavailable(f"{path} answers, but not as a network driver; who else listens there? see ss -lxp")
    return str(path)


def _engine_networks(engine: client.Server) -> dict[str, str]:
    listed = client.fetch(engine, "/networks", list[_EngineNetwork])
    return {network.id: network.name for network in listed if network.driver in DRIVERS}


def _engine_pools(engine: client.Server) -> frozenset[str]:
    info = client.fetch(engine, "/info", dict[str, Any])
    return frozenset(str(pool.get("Base")) for pool in info.get("DefaultAddressPools") or ())


def _engine_endpoints(engine: client.Server) -> frozenset[str]:
    listed = client.fetch(engine, "/containers/json?all=1", list[_EngineContainer])
    attachments = [container.settings.networks or {} for container in listed if container.settings is not None]
    return frozenset(attached.endpoint for of_one in attachments for attached in of_one.values())


def _resolver(address: tuple[str, int] = (daemonjson.RESOLVERS[0], 53)) -> str:
    """The address of our resolver, if it answers."""
    number = os.urandom(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(_PATIENCE)
        try:
            channel.connect(address)
            channel.send(number + struct.pack(">HHHHH", 0, 1, 0, 0, 0) + _QUESTION)
            while channel.recv(512)[:2] != number:
                pass
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror
            raise Unavailable(f"{address[0]} does not answer on UDP port {address[1]}: {reason}") from error
    return address[0]


def _resolvers_away(proc: Path) -> frozenset[str]:
    """Those of our resolver's addresses that this node has not, and could: without IPv6 it can have one of them."""
    listed = _run("ip", "-o", "address", "show")
    there = {words[3].partition("/")[0] for line in listed.splitlines() if len(words := line.split()) > 3}
    try:
        ipv6 = (proc / "sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip() == "0"
    except OSError:
        ipv6 = False
    return frozenset(address for address in daemonjson.RESOLVERS if ipv6 or ":" not in address) - there


def _caddy(path: Path) -> str:
    client.request(client.caddy(path), "/config/")
    return str(path)


def _forwarding(proc: Path, *, ipv6: bool) -> dict[str, bool]:
    names = ["net.ipv4.ip_forward", *(["net.ipv6.conf.all.forwarding"] if ipv6 else [])]
    found = {}
    for name in names:
        try:
            found[name] = (proc / "sys" / name.replace(".", "/")).read_text().strip() != "0"
        except OSError:
            continue  # a kernel without that family
    return found


def _connections(proc: Path) -> tuple[int, int] | None:
    """Those that are tracked, and the most there can be; 0 is no bound (Documentation/networking/nf_conntrack-sysctl)."""
    directory = proc / "sys/net/netfilter"
    try:
        count, most = (int((directory / f"nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    except (OSError, ValueError):
        return None  # the module is not loaded, and nothing is tracked
    return count, most


def _tables() -> frozenset[str]:
    lines = _run("nft", "list", "tables").splitlines()
    return frozenset(line.removeprefix("table ") for line in lines if line.startswith("table "))


def _mtus(bridges: Any) -> dict[str, int]:
    """MTU by interface; those that are not there are left out (netdevice(7), SIOCGIFMTU)."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        for bridge in bridges:
            try:
                answer = fcntl.ioctl(channel, _SIOCGIFMTU, struct.pack("16s16x", bridge.encode()[:15]))
            except OSError:
                continue
            found[bridge] = struct.unpack_from("i", answer, 16)[0]
    return found


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise Unavailable(f"there is no {command[0]} command here to look with") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} did not finish within {_TIMEOUT:.0f} s") from error
    if done.returncode < 0:
        raise Unavailable(f"{' '.join(command)} crashed (signal {-done.returncode})")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Unavailable(f"{' '.join(command)} failed: {reason}")
    return done.stdout
