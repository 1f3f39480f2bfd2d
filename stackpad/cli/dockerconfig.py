"""Docker's ``daemon.json`` of a node in a cluster: what is to be in it is shown, and written by consent only.

``stackpad node init`` and ``join`` come here, and ``stackpad node configure`` at any time later: after a join by the
setting ``JOIN``, after an answer of "no", or when a node has another block.
"""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from stackpad.cli import client, daemonjson, output
from stackpad.cli.reports import ClusterReport
from stackpad.errors import Unavailable

RESOLV_CONFS = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))

LATER = "stackpad node configure"
"""The command that does this again."""

UNTIL = "until it says so, give each network --ipam-driver stackpad; another time: " + LATER


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the file: ``right`` if it says all it should now; ``restart`` if Docker has not read it yet."""

    path: str
    right: bool
    written: bool = False
    backup: str | None = None
    restart: bool = False
    unattended: bool = False


def configure(report: ClusterReport, path: Path, engine: Path, *, dns: str, yes: bool) -> Outcome:
    """Bring the file to what the node needs, if somebody agrees; raises :class:`StackpadError`."""
    before, settings = daemonjson.read(path)
    pools = [*report.pools, *(report.pools6 if takes_ipv6_pools(engine) else ())]
    servers = dns.replace(",", " ").split() or known_servers()
    ranges = [report.range4, report.range6]
    new = daemonjson.merged(settings, pools, ranges=ranges, bridge=_docker0(engine), servers=servers, chosen=bool(dns))
    if not daemonjson.upstreams(new):
        output.say(
            "no name server of this machine is known that containers could ask: while the plugin is stopped they have "
            "no names of the internet; give one with --dns ADDRESS"
        )
    if new == settings:
        output.say(f"{path} is right already")
        return Outcome(str(path), right=True)
    return propose(path, before, daemonjson.text_of(new), yes=yes)


def propose(path: Path, before: str, after: str, *, yes: bool, otherwise: str = UNTIL) -> Outcome:
    """Show the difference, and write it if somebody agrees; who does not is told what to do ``otherwise``."""
    for line in daemonjson.difference(before, after, path):
        output.say(line)
    if not yes:
        if not sys.stdin.isatty():
            output.say(f"{path} is left as it is, nobody is there to agree; have it written with: {LATER} --yes")
            return Outcome(str(path), right=False, unattended=True)
        if not typer.confirm(f"Write this to {path}?", default=True, err=True):
            output.say(f"{path} is left as it is; {otherwise}")
            return Outcome(str(path), right=False)
    backup = daemonjson.write(path, after)
    kept = f" (the old one is {backup})" if backup is not None else ""
    output.say(f"{path} is written{kept}; Docker reads it at its next start: systemctl restart docker")
    return Outcome(str(path), right=True, written=True, backup=None if backup is None else str(backup), restart=True)


def known_servers() -> list[str]:
    """What this machine asks for names, as far as a container could ask it too."""
    for path in RESOLV_CONFS:
        try:
            found = daemonjson.servers_of(path.read_text())
        except OSError:
            continue
        if found:
            return found
    return []


def takes_ipv6_pools(engine: Path) -> bool:
    """From Docker 27 on an IPv6 range is chosen from the pools; older ones want --subnet and stumble over such pools."""
    try:
        version = client.fetch(client.engine(engine), "/version", dict[str, Any])["Version"]
    except (Unavailable, KeyError):
        return False
    return daemonjson.chooses_ipv6(str(version))


def _docker0(engine: Path) -> str | None:
    """docker0's address with prefix length, as the engine has it."""
    try:
        bridge = client.fetch(client.engine(engine), "/networks/bridge", dict[str, Any])
        config = bridge["IPAM"]["Config"][0]
        net = ipaddress.ip_network(config["Subnet"])
        # An engine names the gateway only where somebody chose it; else it is the first address.
        return f"{config.get('Gateway') or net.network_address + 1}/{net.prefixlen}"
    except (Unavailable, KeyError, IndexError, TypeError, ValueError):
        return None
