"""What ``stackpad doctor`` concludes about the machine: forwarding, connections, firewalls, MTUs; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stackpad.cli.facts import Check, Facts, Level, Unknown, named, skipped

TABLES = ("inet stackpad", "bridge stackpad")
ALMOST_FULL = 0.9
"""Of the table of connections; what is above it goes in seconds when somebody floods."""

_TRUSTED = re.compile(r'iifname "sp-\*" (?:oifname "[^"]*" )?(?:goto|jump) filter_FWDI?_trusted\b')
"""How firewalld sends on what comes from our links, by its names of chains since 0.9; other zones refuse it still."""


def machine(facts: Facts) -> Iterator[Check]:
    """All of them, in the order in which one would look."""
    yield from _forwarding(facts)
    yield from _connections(facts)
    yield _tables(facts)
    yield from _accepts(facts)
    yield from _firewalld(facts)
    yield _mtu(facts)


def _forwarding(facts: Facts) -> Iterator[Check]:
    for name, on in facts.forwarding.items():
        if on:
            yield Check("forwarding", Level.OK, f"{name} = 1")
        else:
            yield Check(
                "forwarding",
                Level.PROBLEM,
                f"{name} = 0: containers reach nothing outside their own network",
                f"sysctl -w {name}=1, and look in /etc/sysctl.d for what turned it off",
            )


def _connections(facts: Facts) -> Iterator[Check]:
    """A full table fails what is new, for all on the node, and says so in the kernel's log only."""
    if facts.connections is None:
        return
    count, most = facts.connections
    found = f"{count} of {most} are tracked" if most else f"{count} are tracked, without a bound"
    remedy = (
        "conntrack -L shows whose they are; end who floods, or have more: sysctl -w net.netfilter.nf_conntrack_max="
        f"{most * 4}, and the same in /etc/sysctl.d"
    )
    if not most or count < ALMOST_FULL * most:
        yield Check("connections", Level.OK, found)
    elif count < most:
        yield Check("connections", Level.WARNING, f"{found}: when the table is full, new ones fail", remedy)
    else:
        yield Check("connections", Level.PROBLEM, f"{found}: the table is full, and new ones fail", remedy)


def _tables(facts: Facts) -> Check:
    if isinstance(facts.tables, Unknown):
        return skipped("firewall", facts.tables.reason)
    missing = [table for table in TABLES if table not in facts.tables]
    if missing:
        return Check(
            "firewall",
            Level.PROBLEM,
            f"nftables has no table {' and no table '.join(missing)}: isolation is not in force",
            "a running plugin puts them back within a second; enable it, or see its log (journalctl -u docker)",
        )
    return Check("firewall", Level.OK, "both nftables tables are in place")


def _accepts(facts: Facts) -> Iterator[Check]:
    for tool, listing in facts.filters.items():
        name = f"{tool} accepts"
        if isinstance(listing, Unknown):
            yield skipped(name, listing.reason)
            continue
        lines = listing.replace('"', "").splitlines()
        docker_user = "-N DOCKER-USER" in lines
        chain = "DOCKER-USER" if docker_user else "FORWARD"
        if not docker_user and "-P FORWARD DROP" not in lines:
            yield Check(name, Level.OK, "not needed: there is no DOCKER-USER, and FORWARD accepts")
            continue
        ours = [line for line in lines if line.startswith(f"-A {chain} ") and "--comment stackpad" in line]
        sides = {side for side in ("-i", "-o") if any(f" {side} sp-+ " in line for line in ours)}
        if len(sides) == 2:
            yield Check(name, Level.OK, f"{chain} lets our bridges pass")
        else:
            yield Check(
                name,
                Level.PROBLEM,
                f"{chain} has no accept for our bridges: Docker's own rules drop their traffic",
                "a running plugin puts them back within a second; something removes them again, or it does not run",
            )


def _firewalld(facts: Facts) -> Iterator[Check]:
    """It refuses what is forwarded between links it has not been told of, in a table where no accept of ours counts."""
    if isinstance(facts.firewalld, Unknown):
        yield skipped("firewalld", facts.firewalld.reason)
    elif _TRUSTED.search(facts.firewalld):
        yield Check("firewalld", Level.OK, "it has been told of our links")
    elif '"sp-*"' in facts.firewalld:
        yield Check(
            "firewalld",
            Level.PROBLEM,
            "it runs, and refuses new connections of our networks: our links are in another zone than trusted",
            "firewall-cmd --permanent --zone=trusted --change-interface=sp-+ && firewall-cmd --reload",
        )
    elif facts.firewalld:
        yield Check(
            "firewalld",
            Level.PROBLEM,
            "it runs, and refuses new connections of our networks: it has not been told of our links",
            "firewall-cmd --permanent --zone=trusted --add-interface=sp-+ && firewall-cmd --reload",
        )


def _mtu(facts: Facts) -> Check:
    if isinstance(facts.networks, Unknown) or isinstance(facts.status, Unknown):
        return skipped("MTU", "the plugin does not answer")
    missing = [network.shown_name for network in facts.networks if network.bridge not in facts.mtus]
    if missing:
        return Check(
            "MTU",
            Level.PROBLEM,
            f"no bridge for {named(missing)}",
            "the plugin makes it anew within a minute; if not, its log says why (journalctl -u docker)",
        )
    other = [network.shown_name for network in facts.networks if facts.mtus[network.bridge] != network.mtu]
    if other:
        return Check(
            "MTU",
            Level.WARNING,
            f"the bridge of {named(other)} has another MTU than its network",
            "somebody changed it with ip link; the plugin puts it right within a minute",
        )
    large = [network.shown_name for network in facts.networks if network.mtu > facts.status.mtu]
    if large:
        return Check(
            "MTU",
            Level.WARNING,
            f"{named(large)} has a larger MTU than the node's way out ({facts.status.mtu})",
            "create the network with -o com.docker.network.driver.mtu="
            f"{facts.status.mtu} or less, or leave the option out",
        )
    return Check("MTU", Level.OK, f"{facts.status.mtu} to the outside, and no network has more")
