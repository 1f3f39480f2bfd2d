"""What the control nodes have decided about this node's own containers, for who started them here; pure.

Who owns which name is in the cluster's store, where control nodes alone write it and every node reads it. A node where no
visitors come in decides nothing by it: what its own containers ask for, it looks up there, and says who is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ingress.following.remote import Seen
from ingress.owners import shared
from ingress.owners.deciding import Standing
from ingress.routes import Table, Waiting, WebContainer
from ingress.tables import table
from stackpad import records
from stackpad.hosts import above


def refused(containers: Iterable[WebContainer], seen: Seen, *, base_domain: str, now: float) -> Table:
    """Those of ``containers`` who do not get a name they ask for, and the domains they wait for; no hosts.

    Of a name that nobody has decided about yet nothing is said, and nothing of what hangs on a proof as long as no
    control node says whether it wants any.
    """
    own = list(containers)
    names = {name for c in own for name in (c.request.platform_host(base_domain), *c.request.domains)}
    keys = (records.HOSTS + name for name in {*names, *map(above, names)})
    ledger = shared.read({key: seen.hosts[key] for key in keys if key in seen.hosts})
    wanted = seen.proofs()
    # Nobody is heard, so that no claim ends here: that it has ended is for the control nodes to say.
    decided = table(own, ledger, base_domain=base_domain, now=now, heard=(), believe=wanted is False)
    says = f"(as {who(seen)} says)"
    problems = [replace(one, text=f"{one.text} {says}") for one in decided.problems if one.conflict]
    known = ledger.claims.keys() | ledger.rulings.keys()
    waiting = [one for one in decided.waiting if wanted is not None and one.host in known]
    return Table(problems=tuple(problems), waiting=tuple(waiting))


def reason(one: Waiting, seen: Seen) -> str:
    """Why a domain is not served, and where to see what to do about it."""
    text = "it is forbidden" if one.standing is Standing.FORBIDDEN else "not proved"
    if one.standing is Standing.FORBIDDEN and one.kept_for:
        text = f"it is kept for {one.kept_for}"
    return f"{text}, as {who(seen)} says; see stackpad domain ls there"


def who(seen: Seen) -> str:
    """The control nodes, for a sentence."""
    return " and ".join(seen.controls()) or "the control node"
