"""What ``stackpad doctor`` concludes from what it found; pure.

Each check looks at :class:`~stackpad.cli.facts.Facts` and says how it stands and, unless well, what to do. What could
not be found out is said as such: a check that was skipped is not one that passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stackpad.cli.clusterchecks import cluster
from stackpad.cli.facts import MAX_NAMED, Check, Facts, Level, Unknown, named, skipped
from stackpad.cli.machinechecks import machine
from stackpad.cli.render import START_CADDY, START_INGRESS, Grid, clean
from stackpad.cli.reports import Routes

OLDEST_ENGINE = (20, 10, 0)
CRASHING_ENGINES = ((29, 0, 0), (29, 0, 2))
"""First and last engine that ends when a remote driver's container with published ports stops (moby, fixed in 29.0.3)."""

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def diagnose(facts: Facts) -> list[Check]:
    """All checks, in the order in which one would look."""
    return [
        _plugin(facts),
        _reconciled(facts),
        _plain_socket(facts),
        _engine(facts),
        _known_networks(facts),
        _known_endpoints(facts),
        *machine(facts),
        _reported(facts),
        *_ingress(facts),
        *cluster(facts),
    ]


def failed(checks: list[Check]) -> bool:
    """Whether any of them found a problem."""
    return any(check.level is Level.PROBLEM for check in checks)


def grid(checks: list[Check]) -> Grid:
    """The checks as rows, each remedy below what it is for."""
    rows = tuple(
        (check.level.value, check.name, clean(check.detail) + (f"\n→ {check.remedy}" if check.remedy else ""))
        for check in checks
    )
    return Grid(("STATE", "CHECK", "FOUND"), rows, prose=True)


def _plugin(facts: Facts) -> Check:
    if isinstance(facts.status, Unknown):
        if not isinstance(facts.plain_socket, Unknown):
            # It answers the engine, so that enabling it is not what is missing.
            return Check(
                "plugin", Level.PROBLEM, facts.status.reason, "put that right; the plugin runs, and goes on then"
            )
        return Check(
            "plugin",
            Level.PROBLEM,
            facts.status.reason,
            "docker plugin ls shows whether it is enabled; docker plugin enable stackpad/net starts it",
        )
    return Check("plugin", Level.OK, "its socket answers")


def _reconciled(facts: Facts) -> Check:
    if isinstance(facts.status, Unknown):
        return skipped("reconciled", "the plugin does not answer")
    if not facts.status.ready:
        return Check(
            "reconciled",
            Level.PROBLEM,
            "the kernel has not been brought in step since the plugin started",
            "wait a few seconds; if it stays so, the plugin's log says why (journalctl -u docker)",
        )
    return Check("reconciled", Level.OK, "the kernel is as the state says")


def _plain_socket(facts: Facts) -> Check:
    if isinstance(facts.plain_socket, Unknown):
        return Check(
            "driver name",
            Level.PROBLEM,
            f"-d stackpad cannot be resolved: {facts.plain_socket.reason}",
            "docker plugin disable -f stackpad/net && docker plugin enable stackpad/net; "
            "until then -d stackpad/net:latest is the same driver",
        )
    return Check("driver name", Level.OK, f"-d stackpad is served at {facts.plain_socket}")


def _engine(facts: Facts) -> Check:
    if isinstance(facts.engine_version, Unknown):
        return Check("engine", Level.PROBLEM, facts.engine_version.reason, "systemctl status docker says more")
    found = _VERSION.match(facts.engine_version)
    if found is None:
        return Check("engine", Level.WARNING, f"version {facts.engine_version} cannot be read", "use 20.10 or newer")
    version = tuple(int(part or 0) for part in found.groups())
    first, last = CRASHING_ENGINES
    if version < OLDEST_ENGINE:
        return Check(
            "engine",
            Level.PROBLEM,
            f"Docker {facts.engine_version} is older than 20.10 and not supported",
            "upgrade the engine",
        )
    if first <= version <= last:
        return Check(
            "engine",
            Level.WARNING,
            f"Docker {facts.engine_version} crashes when a container on a plugin's network gives its ports back",
            "upgrade to 29.0.3 or newer, or go back to 28",
        )
    return Check("engine", Level.OK, f"Docker {facts.engine_version}")


def _known_networks(facts: Facts) -> Check:
    if isinstance(facts.networks, Unknown) or isinstance(facts.engine_networks, Unknown):
        return skipped("networks", "plugin or engine does not answer")
    known = {network.id: network.shown_name for network in facts.networks}
    unknown = sorted(name for key, name in facts.engine_networks.items() if key not in known)
    left = sorted(name for key, name in known.items() if key not in facts.engine_networks)
    if unknown:
        return Check(
            "networks",
            Level.PROBLEM,
            f"Docker has {named(unknown)}, which the plugin does not know: its state was lost",
            "remove these networks and create them again (docker network rm, docker network create)",
        )
    if left:
        return Check(
            "networks",
            Level.WARNING,
            f"the plugin has {named(left)}, which Docker does not know: removed while the plugin was off",
            "their ranges stay taken; restart the plugin, and report it if they are still there a minute later",
        )
    return Check("networks", Level.OK, f"{len(known)}, the same as Docker knows")


def _known_endpoints(facts: Facts) -> Check:
    if isinstance(facts.networks, Unknown) or isinstance(facts.engine_endpoints, Unknown):
        return skipped("endpoints", "plugin or engine does not answer")
    held = {endpoint.id: network for network in facts.networks for endpoint in network.endpoints}
    left = [f"{key[:12]} on {held[key].shown_name}" for key in sorted(held) if key not in facts.engine_endpoints]
    if left:
        return Check(
            "endpoints",
            Level.WARNING,
            f"no container has {named(left)}: removed while the plugin was off, and its address stays taken",
            "look again in a minute; if it is still there, remove the network and create it again",
        )
    lost = [endpoint.name for network in facts.networks for endpoint in network.endpoints if endpoint.lost]
    if lost:
        return Check("endpoints", Level.PROBLEM, f"the link of {named(lost)} is gone", "restart these containers")
    return Check("endpoints", Level.OK, f"{len(held)}, the same as Docker knows")


def _reported(facts: Facts) -> Check:
    if isinstance(facts.status, Unknown):
        return skipped("plugin's report", "the plugin does not answer")
    if facts.status.problems:
        return Check(
            "plugin's report",
            Level.PROBLEM,
            "\n".join(map(clean, facts.status.problems)),
            "stackpad networks and the plugin's log (journalctl -u docker) say more",
        )
    repaired = f"; {facts.status.repairs} repairs since it started" if facts.status.repairs else ""
    return Check("plugin's report", Level.OK, f"no problems{repaired}")


def _ingress(facts: Facts) -> Iterator[Check]:
    if facts.ingress is None:
        yield skipped("ingress", "none on this node")
    elif isinstance(facts.ingress, Unknown):
        yield Check("ingress", Level.PROBLEM, facts.ingress.reason, START_INGRESS)
    elif facts.ingress.problem is not None:
        remedy = START_CADDY if facts.ingress.away else "see the log of Caddy"
        yield Check("ingress", Level.PROBLEM, f"Caddy is not in step: {facts.ingress.problem}", remedy)
    elif facts.ingress.stale:
        yield Check(
            "ingress",
            Level.PROBLEM,
            "the Docker engine does not answer it",
            "is its DOCKER_HOST right, and does stackpad-view run?",
        )
    elif facts.ingress.lacking:
        yield Check("ingress", Level.PROBLEM, facts.ingress.lacking, "docker plugin enable stackpad/net, or make install")
    elif facts.ingress.problems:
        yield Check(
            "ingress",
            Level.WARNING,
            f"not served as they ask: {named([problem.container for problem in facts.ingress.problems])}",
            "stackpad routes says which and why",
        )
    else:
        yield Check("ingress", Level.OK, f"in step; routes: {len(facts.ingress.routes)}")
    if isinstance(facts.ingress, Routes) and facts.ingress.certificate_problems:
        yield Check(
            "certificates",
            Level.WARNING,
            "\n".join(map(clean, facts.ingress.certificate_problems[:MAX_NAMED])),
            "the hosts they are for have certificates on demand meanwhile; stackpad routes shows all",
        )
    if facts.left:
        yield Check(
            "state of the ingress",
            Level.WARNING,
            f"not used, since there is another in the directory ingress beside it: {', '.join(facts.left)}",
            "remove it, or stop the ingress and move it there: it is what an earlier ingress knew of who owns which host",
        )
    if facts.caddy is None:
        yield skipped("Caddy", "no admin socket on this node")
    elif isinstance(facts.caddy, Unknown):
        yield Check("Caddy", Level.PROBLEM, facts.caddy.reason, "systemctl status caddy says more")
    else:
        yield Check("Caddy", Level.OK, f"its admin socket {facts.caddy} answers")
