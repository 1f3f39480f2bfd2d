"""From containers to the table of hosts: who is served where, who is not, and why; pure.

The inputs are what the engines say of the web containers, whether their ports accept, and the ledger of who owns which
host name; the output is the whole table anew, with the ledger as it is from now on. Who gets a name is decided in
:mod:`ingress.owners.deciding`, name by name; here the names meet their containers, and those who do not get one are told.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from ingress.owners.deciding import Ask, Decision, Standing, decide, is_kept
from ingress.owners.ledger import HERE, Claim, How, Ledger, Owner, Released, kept, remembered
from ingress.replicas import differing, route
from ingress.routes import HostRoute, Made, Problem, State, Table, Waiting, WebContainer
from stackpad.hosts import above
from stackpad.labels import ENVIRONMENT, PROJECT
from stackpad.routeoptions import PATH

_NOTHING: Mapping[str, Made] = {}


def table(
    containers: Iterable[WebContainer],
    ledger: Ledger,
    *,
    base_domain: str,
    now: float,
    heard: Collection[str] = (HERE,),
    here: str = HERE,
    believe: bool = False,
    nodes: Collection[str] = (),
    last: Mapping[str, Made] = _NOTHING,
) -> Table:
    """The table for ``containers``, given the ``ledger`` of the last one.

    Containers ask in the order of their start, so that of two newcomers the earlier wins, whatever order they are listed
    in. ``heard`` are the nodes whose lists are complete: a claim is over when none of its nodes can have anybody left who
    asks, so that a node that is not heard releases nothing. ``here`` is this node, whose containers come first.
    ``believe`` needs no proof of custom domains. ``nodes`` are the nodes' names. ``last`` is what the last table was made
    of: it saves work, and changes nothing.
    """
    asking: dict[str, list[WebContainer]] = {}
    for container in sorted(containers, key=lambda c: (c.since, c.id)):
        name = container.request.platform_host(base_domain)
        for host in dict.fromkeys((name, *container.request.domains)) if container.request.domains else (name,):
            asking.setdefault(host, []).append(container)
    _leave_out_who_lost_by_hand(asking, ledger)
    claims: dict[str, Claim] = {}
    released: dict[str, Released] = {}
    routed: list[tuple[str, Claim, list[str]]] = []
    made_before: dict[str, Made] = {}
    serving: dict[tuple[str, str], list[WebContainer]] = {}
    busy = {*ledger.rulings, *ledger.released}
    problems: list[Problem] = []
    waiting: list[Waiting] = []
    for host in sorted(asking.keys() | ledger.claims.keys()):
        before = ledger.claims.get(host)
        same = last.get(host)
        if same is not None and _is_as_before(same, asking.get(host, ()), before, here) and host not in busy:
            claims[host], made_before[host] = same.claim, same
            for container in same.containers:
                serving.setdefault((host, container.request.path), []).append(container)
            continue
        platform = _is_platform(host, base_domain)
        if host not in asking and host not in busy and before is not None and is_kept(before, now=now, platform=platform):
            claims[host] = before  # as it would be decided: there may be thousands of these at every change
            continue
        there, below = _above(host, asking, claims, ledger) if believe else (asking.get(host, []), ())
        problems += below
        made = decide(
            [Ask(c.owner, c.request.path, c.request.service, c.node, c.apart) for c in there],
            before,
            now=now,
            platform=platform,
            ruling=ledger.rulings.get(host),
            released=ledger.released.get(host),
            heard=heard,
            believe=believe,
        )
        if made.released is not None and before is not None and _is_worth_remembering(before):
            released[host] = made.released
        if made.claim is None:
            continue
        claims[host] = made.claim
        own = [container for container in there if container.owner == made.claim.owner]
        problems += _losers(host, there, made)
        if made.standing is Standing.ACTIVE:
            _serve(host, made.claim, own, serving)
            routed.append((host, made.claim, sorted({c.request.path for c in own}, key=lambda path: (-len(path), path))))
        else:
            waiting += _waiting(host, there, made, ledger)
    marks = remembered({**ledger.released, **released} if released else ledger.released, now)
    hosts = {host: one.route for host, one in made_before.items()}
    for host, claim, paths in routed:
        if served := [path for path in paths if (host, path) in serving]:
            routes = tuple(route(host, path, serving, here) for path in served)
            hosts[host] = HostRoute(host, claim.owner, claim.since, routes)
            if _may_be_kept(host, claim, asking[host], base_domain):
                made_before[host] = Made(tuple(asking[host]), claim, here, hosts[host])
    found = Ledger(kept(claims), ledger.rulings, marks)
    told = (*problems, *differing(serving))
    operators = {one.host for one in waiting if _is_the_operators(one.host, base_domain, nodes)}
    rest = tuple(_strict(one, claims, marks, operators) for one in waiting)
    return Table(tuple(hosts[host] for host in sorted(hosts)), found, told, rest, made_before)


def _leave_out_who_lost_by_hand(asking: dict[str, list[WebContainer]], ledger: Ledger) -> None:
    """Take out of ``asking`` who does not run and would claim anew what the operator has just taken from its owner.

    A container that is asked to stop is there for some seconds longer, so that the next one finds its names: it must not
    undo the release meanwhile. Once it runs again it asks as others do.
    """
    for host in asking.keys() & ledger.released.keys():
        mark, claim = ledger.released[host], ledger.claims.get(host)
        if not mark.by_hand or (claim is not None and claim.owner == mark.owner):
            continue
        left = [c for c in asking[host] if c.owner != mark.owner or c.state is not State.DOWN]
        if left:
            asking[host] = left
        else:
            del asking[host]


def _may_be_kept(host: str, claim: Claim, there: list[WebContainer], base_domain: str) -> bool:
    """Whether a host hangs on nothing but its own containers and claim: neither on proofs and other hosts, nor on which
    nodes are heard and what the time is. That is so where everybody who asks for a platform's name is served there.
    """
    return (
        _is_platform(host, base_domain)
        and all(c.owner == claim.owner and _has_its_path(c, claim) for c in there)
        and not any(container.request.options.canonical for container in there)
        and not claim.left
        and claim.paths.keys() == {container.request.path for container in there}
        and set(claim.nodes) == {container.node for container in there}
    )


def _is_as_before(last: Made, there: Sequence[WebContainer], claim: Claim | None, here: str) -> bool:
    """Whether a host would come to the same: what does not change stays the same object."""
    return (
        len(last.containers) == len(there)
        and all(one is other for one, other in zip(last.containers, there, strict=True))
        and (last.claim is claim or last.claim == claim)
        and last.here == here
    )


def _is_platform(host: str, base_domain: str) -> bool:
    return host.endswith(f".{base_domain}")


def _is_worth_remembering(claim: Claim) -> bool:
    """A proof that is over must not come back with an old ledger; other claims lose nothing by it."""
    return claim.proof is not None and claim.proof.how is not How.PLATFORM


def _serve(host: str, claim: Claim, own: list[WebContainer], serving: dict[tuple[str, str], list[WebContainer]]) -> None:
    """Put the containers that have their paths of a host into ``serving``."""
    for container in own:
        if _has_its_path(container, claim):
            serving.setdefault((host, container.request.path), []).append(container)


def _has_its_path(container: WebContainer, claim: Claim) -> bool:
    """Whether the path a container of the claim's owner asks for is its service's, and served from its network, where
    that is known.
    """
    path = container.request.path
    if claim.paths.get(path) != container.request.service:
        return False
    return container.apart is None or claim.networks.get(path, "") == container.apart


def _above(
    host: str, asking: Mapping[str, list[WebContainer]], claims: Mapping[str, Claim], ledger: Ledger
) -> tuple[list[WebContainer], list[Problem]]:
    """Who may ask for a host where nothing is proved, and who may not: a new name below somebody else's wildcard.

    Wildcards come before names in the order of names, so that theirs are decided.
    """
    there, wildcard = asking.get(host, []), above(host)
    wide, before = claims.get(wildcard), ledger.claims.get(host)
    if wide is None:
        return there, []
    begun = -math.inf if wildcard in ledger.claims else min(c.since for c in asking[wildcard] if c.owner == wide.owner)
    held = before.owner if before is not None else ""
    late = [c for c in there if c.owner not in {wide.owner, held} and c.since > begun]
    text = f"{host} lies under {wildcard}, which belongs to {wide.owner}; ask for another name, or remove that one first"
    return [c for c in there if c not in late], [Problem(c.id, c.name, text, conflict=True, node=c.node) for c in late]


def _losers(host: str, there: list[WebContainer], made: Decision) -> Iterable[Problem]:
    """Those who ask and do not get it. Nobody has lost a domain that nobody has proved."""
    claim = made.claim
    if claim is None:
        return
    for container in there:
        if container.owner != claim.owner:
            if made.standing is Standing.ACTIVE:
                text = f"{host} belongs to {claim.owner}; ask for another name, or remove that one first"
                if claim.gone is not None:
                    text = (
                        f"{host} is kept for {claim.owner}, whose containers have gone; ask for another name, or have "
                        f"the operator end that with stackpad domain release {host}"
                    )
                yield Problem(container.id, container.name, text, conflict=True, node=container.node)
        elif not _has_its_path(container, claim):
            text = _not_its_path(host, container, claim)
            yield Problem(container.id, container.name, text, conflict=True, node=container.node)


def _not_its_path(host: str, container: WebContainer, claim: Claim) -> str:
    """Who has the path that a container of the same owner asks for, and what to do."""
    path, service, network = container.request.path, container.request.service, claim.networks.get(container.request.path)
    has = claim.paths[path]
    if network is None or container.apart is None or network == container.apart:
        return (
            f"{host}{path or '/'} is served by {has} of the same environment; "
            f"give {service} a path of its own with {PATH}"
        )
    if path in claim.left:
        return (
            f"{host}{path or '/'} is kept for {has} on network {network}, whose containers have gone, for five minutes, "
            f"and this container is on network {container.apart}, which is kept apart from it; wait, or use one network "
            "for both"
        )
    other = f", have {service} at a path of its own with {PATH}," if has != service else ","
    return (
        f"{host}{path or '/'} is served by {has} on network {network}, and this container is on network "
        f"{container.apart}, which is kept apart from it; give one of them another name with the label {PROJECT} or "
        f"{ENVIRONMENT}{other} or use one network for both"
    )


def _waiting(host: str, there: list[WebContainer], made: Decision, ledger: Ledger) -> Iterable[Waiting]:
    """What is to be said of a domain that is not served, for each owner that asks for it."""
    first: dict[Owner, WebContainer] = {}
    for container in there:
        first.setdefault(container.owner, container)
    ruling = ledger.rulings.get(host)
    for owner, container in first.items():
        mine = made.claim is not None and made.claim.owner == owner
        since = made.claim.since if made.claim is not None and mine else container.since
        yield Waiting(
            host,
            owner,
            container.request.service,
            since,
            made.standing,
            rivals=tuple(other for other in first if other != owner),
            kept_for=ruling.owner if ruling is not None and ruling.allowed else "",
        )


def _is_the_operators(host: str, base_domain: str, nodes: Collection[str]) -> bool:
    """Whether a name points here because this is the operator's machine: what the platform's names are below, and nodes'
    own names, in whatever domain that is.
    """
    return f".{base_domain}".endswith(f".{host}") or host in nodes or host.partition(".")[0] in nodes


def _strict(
    one: Waiting, claims: Mapping[str, Claim], marks: Mapping[str, Released], operators: Collection[str]
) -> Waiting:
    """With what its pointing here is worth: nothing where it is the operator's, and where others ask for it, had it not
    long ago, or have a domain above it.
    """
    if one.host in operators:
        return replace(one, dns_only=True)
    mark = marks.get(one.host)
    others = bool(one.rivals) or (mark is not None and mark.owner != one.owner)
    return replace(one, dns_only=others or one.host.startswith("*.") or _is_below(one, claims))


def _is_below(one: Waiting, claims: Mapping[str, Claim]) -> bool:
    """Whether a domain above it is another owner's: its wildcard record would have any name below it point here."""
    parent = one.host.partition(".")[2]
    while "." in parent:
        for name in (parent, f"*.{parent}"):
            claim = claims.get(name)
            if claim is not None and claim.proof is not None and claim.owner != one.owner:
                return True
        parent = parent.partition(".")[2]
    return False
