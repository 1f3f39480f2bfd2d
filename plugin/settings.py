"""Settings of the plugin, from its environment: ``docker plugin set stackpad/net NAME=value``.

Every setting has a default, since an upgrade keeps the old plugin's environment and adds nothing to it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plugin.model import IPNet
from plugin.ranges.notation import range_of
from stackpad.errors import InvalidRequest
from stackpad.records import join_endpoint, split_endpoint

DEFAULT_RANGE = ipaddress.IPv4Network("10.192.0.0/10")
LEVELS = ("debug", "info", "warning", "error")
IMPLEMENTATIONS = ("auto", "kernel", "wireguard-go")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set.

    ``range4`` and ``range6`` are what the IPAM driver carves networks from, in blocks of ``block_prefix`` and
    networks of ``network_prefix`` bits; an IPv6 network is a /64, and without ``range6`` of a random range of the
    node's own. ``node_name`` is the engine's unless set. ``mesh_port`` is the tunnel's UDP port, ``endpoints`` the
    addresses others are told to reach it at (this node's own unless set), ``wireguard`` which implementation to use.
    ``store*`` are an etcd cluster of the operator's own, ``join`` a token to join with at the first start, ``dns`` the
    servers to forward to instead of the host's, ``mesh_metrics`` whether members may read the metrics over the tunnel.
    ``network_ranges`` are what networks may have beside private ranges, here and on other nodes.
    ``host_*`` are where the host's directories are mounted.
    """

    log_level: str = "info"
    range4: ipaddress.IPv4Network = DEFAULT_RANGE
    range6: ipaddress.IPv6Network | None = None
    block_prefix: int = 18
    network_prefix: int = 26
    node_name: str = ""
    mesh_port: int = 51820
    endpoints: tuple[str, ...] = ()
    wireguard: str = "auto"
    store: tuple[str, ...] = ()
    store_user: str = ""
    store_password: str = field(default="", repr=False)
    store_ca: Path | None = None
    store_cert: Path | None = None
    store_key: Path | None = None
    join: str = field(default="", repr=False)
    dns: tuple[str, ...] = ()
    mesh_metrics: bool = False
    network_ranges: tuple[IPNet, ...] = ()
    host_run: Path = Path("/host/run")
    host_proc: Path = Path("/host/proc")
    host_lib: Path = Path("/host/var/lib")

    @property
    def state_file(self) -> Path:
        """Where the durable state is."""
        return self.host_lib / "stackpad" / "net.db"

    @property
    def keys(self) -> Path:
        """Where the keys of the tunnel are."""
        return self.state_file.parent / "keys"

    @property
    def store_directory(self) -> Path:
        """Where the embedded store keeps its data."""
        return self.state_file.parent / "etcd"

    @property
    def store_sockets(self) -> Path:
        """Where the embedded store listens."""
        return self.host_run / "stackpad" / "etcd"

    @property
    def admin_socket(self) -> Path:
        """Where the command line talks to the plugin."""
        return self.host_run / "stackpad" / "net.sock"

    @property
    def web_socket(self) -> Path:
        """Where the ingress talks to the plugin; alone in its directory, which its container is given."""
        return self.host_run / "stackpad" / "web" / "web.sock"

    @property
    def engine(self) -> str:
        """The Docker engine's own socket, as the Docker SDK writes it."""
        return f"unix://{self.host_run / 'docker.sock'}"

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; raises :class:`InvalidRequest` naming the setting and what would be right."""
        default = cls()
        level = environment.get("LOG_LEVEL", "").lower() or default.log_level
        if level not in LEVELS:
            raise InvalidRequest(f"LOG_LEVEL={level} is unknown; use one of {', '.join(LEVELS)}")
        range4 = _network(environment, "RANGE", 4) or default.range4
        range6 = _network(environment, "RANGE6", 6)
        if range6 is not None and range6.prefixlen > 64:
            raise InvalidRequest(f"RANGE6={range6} has no room for a /64; give at least one, such as fd12:3456:789a::/48")
        block = _prefix(environment, "BLOCK_PREFIX", default.block_prefix, range4.prefixlen, 30)
        return cls(
            log_level=level,
            range4=ipaddress.IPv4Network(range4),
            range6=None if range6 is None else ipaddress.IPv6Network(range6),
            block_prefix=block,
            network_prefix=_prefix(environment, "NETWORK_PREFIX", max(default.network_prefix, block), block, 30),
            node_name=environment.get("NODE_NAME", "").strip(),
            mesh_port=_number(environment, "MESH_PORT", default.mesh_port, 1, 65535),
            endpoints=tuple(_endpoint(text) for text in _words(environment, "ENDPOINT")),
            wireguard=_choice(environment, "WIREGUARD", IMPLEMENTATIONS),
            store=tuple(_url(text) for text in _words(environment, "STORE")),
            store_user=environment.get("STORE_USER", ""),
            store_password=environment.get("STORE_PASSWORD", ""),
            store_ca=_path(environment, "STORE_CA"),
            store_cert=_path(environment, "STORE_CERT"),
            store_key=_path(environment, "STORE_KEY"),
            join=environment.get("JOIN", "").strip(),
            dns=tuple(_address(text) for text in _words(environment, "DNS")),
            mesh_metrics=_choice(environment, "MESH_METRICS", ("off", "on")) == "on",
            network_ranges=tuple(_range(text) for text in _words(environment, "NETWORK_RANGES")),
            host_run=Path(environment.get("HOST_RUN") or default.host_run),
            host_proc=Path(environment.get("HOST_PROC") or default.host_proc),
            host_lib=Path(environment.get("HOST_LIB") or default.host_lib),
        )


def _words(environment: Mapping[str, str], name: str) -> list[str]:
    return environment.get(name, "").replace(",", " ").split()


def _choice(environment: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    text = environment.get(name, "").strip().lower() or choices[0]
    if text not in choices:
        raise InvalidRequest(f"{name}={text} is unknown; use one of {', '.join(choices)}")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidRequest(f"DNS={text!r} is not the address of a server, such as 192.0.2.53") from error


def _range(text: str) -> IPNet:
    try:
        return range_of(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"NETWORK_RANGES={text!r} cannot be used: {error}") from error


def _endpoint(text: str) -> str:
    """An address, with or without a port."""
    if "%" in text:
        raise InvalidRequest(f"ENDPOINT={text!r} names a zone, which means something on this machine only")
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        address, port = split_endpoint(text)
        return join_endpoint(address, port)


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+(:\d+)?/?|unix:///\S+", text):
        raise InvalidRequest(f"STORE={text} is not the address of an etcd, such as https://192.0.2.7:2379")
    return text.rstrip("/")


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    """A file of the host's, below ``/var/lib``: nothing else of the host is seen by a managed plugin."""
    text = environment.get(name, "").strip()
    return Path(text) if text else None


def _network(
    environment: Mapping[str, str], name: str, version: int
) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        net = ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}={text!r} is not an address range: {error}") from error
    if net.version != version:
        raise InvalidRequest(f"{name}={text} is an IPv{net.version} range; an IPv{version} one is due")
    try:
        range_of(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}={text} cannot be used: {error}") from error
    return net


def _prefix(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    return _number(environment, name, max(default, least), least, most, "a prefix length")


def _number(
    environment: Mapping[str, str], name: str, default: int, least: int, most: int, what: str = "a number"
) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise InvalidRequest(f"{name}={text!r} is not {what} between {least} and {most}")
    return int(text)
