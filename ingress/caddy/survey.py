"""What is there already in Caddy's configuration, the operator's and ours; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ingress.caddy.config import DNS_POLICY, OBJECT, POLICY


def find_server(tree: Any, port: int) -> str | None:
    """The name of the server that listens on ``port`` (alone or in a range), if Caddy's configuration has one."""
    found: dict[bool, str] = {}
    for name, there in _servers(tree).items():
        for listen in there.get("listen") or ():
            address, first, last = _place(str(listen))
            if first <= port <= last:
                found.setdefault(address.rpartition("/")[2] in {"", "0.0.0.0", "[::]"}, str(name))
    # One that listens on every address has all the visitors.
    return found.get(True) or found.get(False)


def beside(tree: Any, port: int, other: int) -> list[str]:
    """The addresses at which the server on ``port`` listens there, with the port ``other``."""
    name = find_server(tree, port)
    places = [_place(str(listen)) for listen in (_servers(tree)[name].get("listen") or ())] if name else []
    return [f"{address}:{other}" for address, first, last in places if first <= port <= last] or [f":{other}"]


def redirects(tree: Any) -> bool:
    """Whether Caddy sends visitors on to HTTPS for any of its servers."""
    return any(
        not automatic.get("disable") and not automatic.get("disable_redirects")
        for automatic in (there.get("automatic_https") or {} for there in _servers(tree).values())
    )


def taken(tree: Any) -> frozenset[str]:
    """Host names an operator's configuration has sites or TLS policies for; ours are left out."""
    apps = (tree or {}).get("apps") or {}
    policies = ((apps.get("tls") or {}).get("automation") or {}).get("policies") or []
    ours = (POLICY, DNS_POLICY)
    named = {str(name).lower() for one in policies if one.get("@id") not in ours for name in one.get("subjects") or ()}
    return frozenset(named | {name.lower() for name in _hosts_in((apps.get("http") or {}).get("servers"))})


def _hosts_in(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for one in node:
            yield from _hosts_in(one)
    elif isinstance(node, Mapping) and node.get("@id") != OBJECT:
        for key, value in node.items():
            if key == "host" and isinstance(value, list):
                yield from (str(name) for name in value)
            else:
                yield from _hosts_in(value)


def policy_place(automation: Any) -> tuple[int | None, int | None]:
    """Where ours stands among the TLS policies, and where the operator's for all names does; ``None`` for neither.

    Caddy takes the first that fits, so that ours does nothing behind one for all names.
    """
    policies = (automation or {}).get("policies") or []
    ours = next((index for index, one in enumerate(policies) if one.get("@id") == POLICY), None)
    for_all = next((index for index, one in enumerate(policies) if not one.get("subjects")), None)
    return ours, for_all


def asks(automation: Any) -> bool:
    """Whether somebody is asked before a certificate is had on demand: Caddy 2.6 has it for any name otherwise."""
    on_demand = (automation or {}).get("on_demand") or {}
    return bool(on_demand.get("ask") or on_demand.get("permission"))


def missing(tree: Any, path: Iterable[str], value: Any) -> tuple[str, Any]:
    """Where to put ``value`` so that it ends up at ``path``: the highest part that is not there, and what goes in it."""
    steps = list(path)
    for depth, step in enumerate(steps):
        there = tree.get(step) if isinstance(tree, Mapping) else None
        if there is None:
            for outer in reversed(steps[depth + 1 :]):
                value = {outer: value}
            return "/".join(steps[: depth + 1]), value
        tree = there
    return "/".join(steps), value


def find(tree: Any, name: str) -> Any:
    """The first object with this ``@id`` in a configuration, ``None`` if there is none."""
    if isinstance(tree, Mapping) and tree.get("@id") == name:
        return tree
    inner = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ()
    return next((found for one in inner if (found := find(one, name)) is not None), None)


def _servers(tree: Any) -> Mapping[str, Any]:
    return (((tree or {}).get("apps") or {}).get("http") or {}).get("servers") or {}


def _place(listen: str) -> tuple[str, int, int]:
    """Address, first and last port of what a server listens at; no port is (0, -1)."""
    address, _, ports = listen.rpartition(":")
    first, _, last = ports.partition("-")
    if not first.isdigit():
        return address, 0, -1
    return address, int(first), int(last if last.isdigit() else first)
