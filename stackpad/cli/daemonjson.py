"""What ``daemon.json`` of a node in a cluster says, and writing it with consent only.

:func:`merged` is pure. Only three settings are touched: ``default-address-pools`` (so that plain ``docker network
create`` chooses from this node's own block), ``bip`` (so that docker0 keeps the range it has) and ``dns`` (our resolver
first, the servers the node uses already after it, so that a stopped plugin costs the names of other nodes and no more).
Docker asks three servers, and glibc no more either: beside our two that is one, and one that every container reaches.
"""

from __future__ import annotations

import copy
import difflib
import ipaddress
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stackpad import files
from stackpad.errors import InvalidRequest, Unavailable

RESOLVERS = ("169.254.53.53", "fd9c:5acd:5353::53")
"""Ours; the second one is for containers without IPv4."""

ASKED = 3
"""Servers that are asked at most: by Docker (``maxExtDNS``), and by glibc (``MAXNS``)."""

Settings = dict[str, Any]


def read(path: Path) -> tuple[str, Settings]:
    """The file as it is and as a value; empty where there is none. Raises :class:`InvalidRequest` if it is damaged."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return "", {}
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error
    try:
        settings = json.loads(text or "{}")
    except ValueError as error:
        raise InvalidRequest(
            f"{path} is not JSON ({error}); Docker would not start with it either, mend it first"
        ) from error
    if not isinstance(settings, dict):
        raise InvalidRequest(f"{path} does not hold an object; mend it first")
    return text, settings


def merged(
    current: Mapping[str, Any],
    pools: Iterable[Mapping[str, object]],
    *,
    ranges: Sequence[str],
    bridge: str | None,
    servers: Sequence[str],
    chosen: bool = False,
) -> Settings:
    """``current`` with this node's ``pools`` first, docker0's own address, and our resolver first.

    ``ranges`` are the cluster's: pools in them are older ones of ours. ``bridge`` is docker0's address with its prefix
    length, ``servers`` are what the node asks for names now, or ``chosen`` by somebody instead of those in the file.
    """
    wanted = copy.deepcopy(dict(current))
    cluster = [ipaddress.ip_network(text) for text in ranges]
    others = [pool for pool in wanted.get("default-address-pools") or () if not _within(pool, cluster)]
    wanted["default-address-pools"] = [*map(dict, pools), *others]
    if bridge is not None and not {"bip", "bridge"} & wanted.keys():
        wanted["bip"] = bridge
    there = [] if chosen else [str(server) for server in wanted.get("dns") or () if str(server) not in RESOLVERS]
    asked = there or [str(server) for server in servers if str(server) not in RESOLVERS]
    # Of them only the first is asked, and a container without IPv6 must reach it.
    first = next((server for server in asked if ":" not in server), None)
    if first is not None:
        asked.remove(first)
        asked.insert(0, first)
    wanted["dns"] = [*RESOLVERS, *asked]
    return wanted


def asked(settings: Mapping[str, Any]) -> list[str]:
    """The servers in ``dns`` that are really asked."""
    named = settings.get("dns")
    return [str(server) for server in named][:ASKED] if isinstance(named, list) else []


def upstreams(settings: Mapping[str, Any]) -> list[str]:
    """Those that are asked besides ours, and are left while the plugin is stopped."""
    return [server for server in asked(settings) if server not in RESOLVERS]


def chooses_ipv6(version: str) -> bool:
    """Whether an engine of this version takes IPv6 ranges from its address pools: 27 and newer."""
    major = version.split(".")[0]
    return major.isdecimal() and int(major) >= 27


def without(current: Mapping[str, Any], ranges: Sequence[str]) -> Settings:
    """``current`` with what :func:`merged` put there taken out again; ``bip`` stays, for docker0 has it by now."""
    wanted = copy.deepcopy(dict(current))
    cluster = [ipaddress.ip_network(text) for text in ranges]
    pools = [pool for pool in wanted.get("default-address-pools") or () if not _within(pool, cluster)]
    servers = [server for server in wanted.get("dns") or () if server not in RESOLVERS]
    for name, value in (("default-address-pools", pools), ("dns", servers)):
        if value:
            wanted[name] = value
        else:
            wanted.pop(name, None)
    return wanted


def text_of(settings: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(settings, indent=2) + "\n"


def difference(before: str, after: str, path: Path) -> list[str]:
    """A unified diff, without line ends."""
    made = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="")
    return list(made)


def write(path: Path, text: str) -> Path | None:
    """Replace the file as a whole; returns the backup of the old one, ``None`` if there was none."""
    backup, mode = None, 0o644
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            backup = path.with_name(f"{path.name}.before-stackpad-{time.strftime('%Y%m%d-%H%M%S')}")
            shutil.copy2(path, backup)
            mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise Unavailable(f"{path} cannot be kept as it was: {error.strerror}; it is unchanged") from error
    files.replace(path, text.encode(), mode)
    return backup


def servers_of(resolv_conf: str) -> list[str]:
    """The name servers in a ``resolv.conf`` that a container could ask too: none on the loopback."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                continue
            if not address.is_loopback and words[1] not in RESOLVERS:
                found.append(words[1])
    return found


def _within(pool: Any, cluster: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        base = ipaddress.ip_network(str(pool["base"]))
    except (ValueError, KeyError, TypeError):
        return False
    return any(base.version == one.version and base.overlaps(one) for one in cluster)
