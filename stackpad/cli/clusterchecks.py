"""What ``stackpad doctor`` concludes about a node's cluster; pure."""

from __future__ import annotations

from collections.abc import Iterator

from stackpad.cli.daemonjson import ASKED, RESOLVERS, asked, chooses_ipv6, upstreams
from stackpad.cli.facts import Check, Facts, Level, Unknown
from stackpad.cli.render import duration
from stackpad.cli.reports import ClusterReport, NodeReport

CONFIGURE = "stackpad node configure writes them into Docker's configuration; restart Docker after it"
TAKE_OUT = "take it out of dns in daemon.json and restart Docker; or have the node in a cluster again: stackpad node join"
SAYS_MORE = "if it does not say what to do: stackpad node ls, and the plugin's log (journalctl -u docker)"

MAX_NAMED = 5


def cluster(facts: Facts) -> Iterator[Check]:
    """The checks of a node that is in a cluster; of one that is not, why that is where it should be.

    Whether containers are sent to an address for names that is nobody's is asked in any case: a node that has left, or
    has no plugin any more, may have Docker's configuration of before.
    """
    report = facts.cluster
    if report is None or isinstance(report, Unknown):
        yield from _sent_away(facts)
        return
    if not report.member:
        yield from (Check("cluster", Level.PROBLEM, problem, SAYS_MORE) for problem in report.problems)
        yield from _sent_away(facts)
        if not report.problems:
            yield from _sent_on(facts)
        return
    yield _store(report)
    for node in report.nodes:
        if not node.self:
            yield _peer(node)
    yield _pools(facts, report)
    yield from _dns(facts)
    for problem in report.problems:
        yield Check("cluster", Level.PROBLEM, problem, SAYS_MORE)


def _store(report: ClusterReport) -> Check:
    if report.store.connected:
        return Check("store", Level.OK, "it answers")
    remedy = "the node that runs it has to be up, with its tunnel; until then what is known goes on, and nobody can join"
    return Check("store", Level.PROBLEM, report.store.reason, remedy)


def _peer(node: NodeReport) -> Check:
    name = f"node {node.name}"
    if not node.alive:
        remedy = f"look at it, or free what it holds: stackpad node rm {node.name}"
        return Check(name, Level.PROBLEM, "it gives no sign of life", remedy)
    if node.round_trip is None:
        since = "never" if node.handshake is None else f"{duration(node.handshake)} ago"
        remedy = f"open UDP at {node.endpoint or 'its address'} in the firewalls between, or set ENDPOINT there"
        detail = f"alive, but it does not answer through the tunnel; last handshake {since}"
        return Check(name, Level.PROBLEM, detail, remedy)
    return Check(name, Level.OK, f"answers at {node.endpoint}, round trip {node.round_trip * 1000:.2f} ms")


def _pools(facts: Facts, report: ClusterReport) -> Check:
    if isinstance(facts.engine_pools, Unknown):
        return Check("address pools", Level.SKIPPED, facts.engine_pools.reason)
    known = isinstance(facts.engine_version, str)
    wanted = [*report.pools, *(report.pools6 if known and chooses_ipv6(str(facts.engine_version)) else ())]
    missing = [base for pool in wanted if (base := str(pool["base"])) not in facts.engine_pools]
    if not missing:
        return Check("address pools", Level.OK, "the engine chooses from this node's own blocks")
    named = ", ".join(missing[:MAX_NAMED]) + (f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else "")
    return Check(
        "address pools",
        Level.WARNING,
        f"the engine's are not this node's: two nodes may choose the same; it lacks {named}",
        f"{CONFIGURE}. Or give each network --ipam-driver stackpad",
    )


def _dns(facts: Facts) -> Iterator[Check]:
    """Whether containers find names of other nodes: the resolver, the way to it, and whether they are sent there."""
    if isinstance(facts.resolver, Unknown):
        remedy = (
            "it runs in the plugin, whose log says why it does not (journalctl -u docker); who else listens: ss -lunp"
        )
        yield Check("resolver", Level.PROBLEM, f"{facts.resolver.reason}: no names of other nodes", remedy)
    elif _closed(facts):
        yield Check(
            "resolver",
            Level.PROBLEM,
            "the firewall's INPUT drops what no rule accepts, and no rule accepts questions of containers for names",
            "let them in: iptables -I INPUT -i sp-+ -p udp --dport 53 -j ACCEPT, and the same with -p tcp",
        )
    else:
        yield Check("resolver", Level.OK, f"{facts.resolver} answers")
    if isinstance(facts.daemon_json, Unknown):
        yield Check("name servers", Level.SKIPPED, facts.daemon_json.reason)
        return
    if away := list(_sent_away(facts)):
        yield from away
    elif RESOLVERS[0] not in asked(facts.daemon_json):
        detail = f"Docker's configuration does not name {RESOLVERS[0]}: containers have no names of other nodes"
        yield Check("name servers", Level.PROBLEM, detail, CONFIGURE)
    elif not upstreams(facts.daemon_json):
        detail = f"of {ASKED} servers that Docker asks at most none is left while the plugin is stopped"
        yield Check(
            "name servers", Level.WARNING, detail, "stackpad node configure --dns ADDRESS; restart Docker after it"
        )
    else:
        yield Check(
            "name servers", Level.OK, f"containers ask ours first, then {', '.join(upstreams(facts.daemon_json))}"
        )


def _asked(facts: Facts) -> list[str]:
    """The servers that the engine asks by its configuration."""
    return [] if isinstance(facts.daemon_json, Unknown) else asked(facts.daemon_json)


def _sent_away(facts: Facts) -> Iterator[Check]:
    """Containers are sent to an address of ours that is not there: such a question gets no answer, not even a refusal."""
    away = frozenset() if isinstance(facts.resolvers_away, Unknown) else facts.resolvers_away
    if named := [address for address in _asked(facts) if address in away]:
        detail = (
            f"Docker's configuration names {' and '.join(named)}, which this node has not got: containers wait for a "
            "time-out of seconds at each name of the outside"
        )
        member = isinstance(facts.cluster, ClusterReport) and facts.cluster.member
        remedy = "the plugin puts it on lo; its log says why it does not (journalctl -u docker)" if member else TAKE_OUT
        yield Check("name servers", Level.PROBLEM, detail, remedy)


def _sent_on(facts: Facts) -> Iterator[Check]:
    """Containers of a node that has left still ask ours, which is there until the next reboot only."""
    away = frozenset() if isinstance(facts.resolvers_away, Unknown) else facts.resolvers_away
    named = [address for address in _asked(facts) if address in RESOLVERS]
    if named and not away.intersection(named):
        detail = (
            f"Docker's configuration names {' and '.join(named)}, though this node is in no cluster: containers wait for "
            "a time-out of seconds at each name of the outside after its next reboot"
        )
        yield Check("name servers", Level.WARNING, detail, TAKE_OUT)


def _closed(facts: Facts) -> bool:
    listing = facts.filters.get("iptables")
    if not isinstance(listing, str):
        return False
    lines = listing.splitlines()
    accepts = [line for line in lines if line.endswith("-j ACCEPT") and not line.startswith(("-A FORWARD", "-A DOCKER"))]
    return "-P INPUT DROP" in lines and not any("--dport 53 " in line or "-i sp-+" in line for line in accepts)
