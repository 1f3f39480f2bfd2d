"""Settings of the plugin, from its environment: ``docker plugin set stackpad/net NAME=value``.

Every setting has a default, since an upgrade keeps the old plugin's environment and adds nothing to it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plugin.options import range_of
from stackpad.errors import InvalidRequest

DEFAULT_RANGE = ipaddress.IPv4Network("10.192.0.0/10")
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set.

    ``range4`` and ``range6`` are what the IPAM driver carves networks from, in blocks of ``block_prefix`` and
    networks of ``network_prefix`` bits; an IPv6 network is a /64, and without ``range6`` of a random range of the
    node's own. ``host_*`` are where the host's directories are mounted.
    """

    log_level: str = "info"
    range4: ipaddress.IPv4Network = DEFAULT_RANGE
    range6: ipaddress.IPv6Network | None = None
    block_prefix: int = 18
    network_prefix: int = 26
    host_run: Path = Path("/host/run")
    host_proc: Path = Path("/host/proc")
    host_lib: Path = Path("/host/var/lib")

    @property
    def state_file(self) -> Path:
        """Where the durable state is."""
        return self.host_lib / "stackpad" / "net.db"

    @property
    def admin_socket(self) -> Path:
        """Where the command line talks to the plugin."""
        return self.host_run / "stackpad" / "net.sock"

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
            host_run=Path(environment.get("HOST_RUN") or default.host_run),
            host_proc=Path(environment.get("HOST_PROC") or default.host_proc),
            host_lib=Path(environment.get("HOST_LIB") or default.host_lib),
        )


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
    text = environment.get(name, "").strip()
    if not text:
        return max(default, least)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise InvalidRequest(f"{name}={text!r} is not a prefix length between {least} and {most}")
    return int(text)
