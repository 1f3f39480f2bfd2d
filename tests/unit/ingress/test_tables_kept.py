"""What the last table was made of saves work, and never changes what the next one says."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.owners import ledger as book
from ingress.owners.ledger import Ledger
from ingress.routes import State, Table, WebContainer
from ingress.tables import table
from stackpad.routeoptions import NONE, RouteOptions
from tests.unit.ingress.test_routes import BASE, HOST, container

CANONICAL = RouteOptions(canonical=HOST)
NODES = ("", "n2", "n3")
ONE = st.builds(
    lambda name, project, service, path, domains, state, node, network, joined, options, since: replace(
        container(
            name, project=project, service=service, path=path, domains=domains, state=state, options=options, since=since
        ),
        node=node,
        network=network,
        joined=joined,
    ),
    st.sampled_from("abcd"),
    st.sampled_from(("shop", "other", "shop-x")),
    st.sampled_from(("web", "api")),
    st.sampled_from(("", "/api")),
    st.sampled_from(((), ("x.example",), ("*.x.example", "a.x.example"))),
    st.sampled_from((State.UP, State.DOWN)),
    st.sampled_from(NODES),
    st.sampled_from(("shop", "shop-production")),
    st.sampled_from(("", "", None)),
    st.sampled_from((NONE, NONE, CANONICAL)),
    st.sampled_from((1.0, 2.0, 3.0)),
)
CHANGE = st.tuples(
    st.sampled_from(("put", "put", "drop", "release", "copy", "nothing")),
    ONE,
    st.sets(st.sampled_from(NODES)),
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(CHANGE, max_size=12))
def test_it_is_the_same_table(changes: list[tuple[str, WebContainer, set[str], bool]]) -> None:
    there: dict[str, WebContainer] = {}
    last, ledger = Table(), Ledger()
    for number, (what, one, heard, believe) in enumerate(changes, start=1):
        now = number * 200
        if what == "put":
            there[one.id] = one
        elif what == "drop":
            there.pop(one.id, None)
        elif what == "copy":
            there = {key: replace(value) for key, value in there.items()}
        elif what == "release" and ledger.claims:
            ledger = book.release(ledger, min(ledger.claims), float(now))
        asked = {"base_domain": BASE, "now": float(now), "heard": heard, "believe": believe}
        plain = table(there.values(), ledger, **asked)  # type: ignore[arg-type]
        last = table(there.values(), ledger, **asked, last=last.made)  # type: ignore[arg-type]
        assert last == plain
        assert _members(last) == _members(plain)
        ledger = last.ledger


def _members(one: Table) -> list[object]:
    """What is no part of the comparison of routes."""
    return [path.members for host in one.hosts for path in host.paths]


def test_what_does_not_change_stays_the_same_object() -> None:
    kept, changed = container("a"), container("b", project="other")
    before = table([kept, changed], Ledger(), base_domain=BASE, now=1.0)
    moved = replace(changed, address="10.0.0.9")
    after = table([kept, moved], before.ledger, base_domain=BASE, now=2.0, last=before.made)
    same = {host.host: host for host in before.hosts}
    assert [host is same[host.host] for host in after.hosts] == [host.host == HOST for host in after.hosts]
    assert {dial for host in after.hosts for path in host.paths for dial in path.upstreams} == {
        "10.0.0.9:80",
        "10.0.0.2:80",
    }
