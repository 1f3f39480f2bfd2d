"""The status page as HTML, whole and in the parts that change; pure.

Complete without any script, and nothing in it comes from elsewhere. Every text that is not ours goes through
:func:`ingress.page.topology.safe`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping

from ingress.page.overview import Overview, RouteView
from ingress.page.topology import kind, safe, topology

SHOWN_CONTAINERS = 6
NOTHING = "-"

PART_TITLES = {
    "summary": "At a glance",
    "attention": "Needs attention",
    "map": "Who leads where",
    "routes": "Routes",
    "environments": "Environments",
    "nodes": "Nodes",
}
"""The parts in the order of the page; each is an element with this id."""


def parts(view: Overview) -> dict[str, str]:
    """The content of each part."""
    return {
        "summary": _summary(view),
        "attention": _attention(view),
        "map": f'<div class="scroll">{topology(view)}</div>{_more(view.more_nodes, "nodes")}',
        "routes": _routes(view),
        "environments": _environments(view),
        "nodes": _nodes(view),
    }


def page(view: Overview, made: Mapping[str, str]) -> str:
    """The whole page around ``made``, which is of :func:`parts`."""
    sections = "".join(_section(name, made[name]) for name in made)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{safe(view.base_domain)} · Stackpad</title>"
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">'
        '<script src="/page.js" defer></script></head>'
        f"<body><header><h1><span>Stackpad</span> {safe(view.base_domain)}</h1>"
        '<p id="live" role="status">As of when it was loaded; reload for news.</p>'
        '<form action="/" method="get" role="search"><input type="search" name="q" maxlength="100" '
        f'placeholder="Host, owner, service…" aria-label="Show only names with this" value="{safe(view.query)}">'
        f"<button>Search</button></form></header><main>{sections}</main></body></html>\n"
    )


def _section(name: str, content: str) -> str:
    return f'<section aria-label="{PART_TITLES[name]}" id="{name}">{content}</section>'


def _summary(view: Overview) -> str:
    routes = sum(view.states.values())
    rest = ", ".join(f"{number} {safe(state)}" for state, number in view.states.items() if kind(state) != "good")
    alive = sum(node.alive for node in view.nodes)
    tiles = (
        ("Routes", routes, rest or ("all answer" if routes else "none yet"), "bad" if _failing(view) else "good"),
        ("Environments", view.environments, "with containers or networks", "plain"),
        ("Services", view.services, "of all environments", "plain"),
        (
            "Nodes",
            len(view.nodes) + view.more_nodes,
            "all alive" if alive == len(view.nodes) else f"{len(view.nodes) - alive} without a sign of life",
            "good" if alive == len(view.nodes) else "bad",
        ),
        (
            "Conflicts",
            view.conflicts,
            "over names" if view.conflicts else "nobody wants another's name",
            "bad" if view.conflicts else "good",
        ),
    )
    return (
        '<ul class="tiles">'
        + "".join(
            f'<li class="{mood}"><b>{number}</b><span>{name}</span><small>{said}</small></li>'
            for name, number, said, mood in tiles
        )
        + "</ul>"
    )


def _failing(view: Overview) -> int:
    return sum(number for state, number in view.states.items() if kind(state) == "bad")


def _attention(view: Overview) -> str:
    lines = [f"Not in step with Caddy: {view.problem}"] if view.problem else []
    lines += [f"Node {node.name} gives no sign of life." for node in view.nodes if not node.alive]
    lines += [
        f"The Docker engine of {node.name} does not answer; what was known last is served on."
        for node in view.nodes
        if node.stale and node.alive
    ]
    failing, unproved = _failing(view), view.states.get("unproved", 0)
    lines += [f"Routes that give visitors no answer: {failing}. They come first below."] if failing else []
    lines += [f"Domains that wait for a proof: {unproved}."] if unproved else []
    notes = ""
    if not view.control:
        where = ", ".join(view.controls) or "a control node; none is known"
        notes = f'<p class="note">Visitors come in on {safe(where)}; the routes are shown there.</p>'
    lines += view.problems
    if not lines:
        return notes + '<p class="calm"><i class="dot good"></i> Nothing needs attention.</p>'
    items = "".join(f"<li>{safe(line)}</li>" for line in lines)
    return f'{notes}<h2>Needs attention</h2><ul class="problems">{items}</ul>{_more(view.more_problems, "problems")}'


def _routes(view: Overview) -> str:
    if not view.routes:
        said = "Nothing that fits." if view.query else "None yet; a container with the label stackpad.type=web makes one."
        return f'<h2>Routes</h2><p class="note">{said}</p>'
    heads = ("Host", "State", "Owner", "Containers", "Certificate", "Since")
    return f"<h2>Routes</h2>{_table(heads, map(_route, view.routes))}{_more(view.more_routes, 'routes')}"


def _route(route: RouteView) -> tuple[str, ...]:
    path = "" if route.path == "/" else f'<span class="path">{safe(route.path)}</span>'
    why = f"<small>{safe(route.reason)}</small>" if route.reason else ""
    asked = (
        f"<small>{safe(', '.join(o.removeprefix('stackpad.') for o in route.options))}</small>" if route.options else ""
    )
    containers = "<br>".join(safe(name) for name in route.containers[:SHOWN_CONTAINERS])
    left = len(route.containers) - SHOWN_CONTAINERS
    containers += f"<br>and {left} more" if left > 0 else ""
    ends = "" if route.certificate_ends is None else f"<small>until {_day(route.certificate_ends)}</small>"
    return (
        f"<code>{safe(route.host)}</code>{path}{asked}",
        f"{_state(route.state)}{why}",
        f"{safe(route.owner)}<small>{safe(route.service)}</small>",
        containers or NOTHING,
        f"{safe(route.certificate) or NOTHING}{ends}",
        _moment(route.since),
    )


def _environments(view: Overview) -> str:
    rows = [
        (
            safe(environment.name) + ("<small>internal</small>" if environment.internal else ""),
            safe(node.name),
            safe(service.name),
            _state(service.state),
            f"{service.up} of {service.total}",
        )
        for node in view.nodes
        for environment in node.environments
        for service in environment.services
    ]
    rows += [
        (safe(environment.name), safe(node.name), NOTHING, NOTHING, "no containers")
        for node in view.nodes
        for environment in node.environments
        if not environment.services
    ]
    more = sum(node.more for node in view.nodes), sum(e.more for node in view.nodes for e in node.environments)
    left = _more(more[0], "environments") + _more(more[1], "services")
    if not rows:
        return '<h2>Environments</h2><p class="note">None to show.</p>'
    return f"<h2>Environments</h2>{_table(('Environment', 'Node', 'Service', 'State', 'Containers'), rows)}{left}"


def _nodes(view: Overview) -> str:
    rows = [
        (
            safe(node.name) + ("<small>this one</small>" if node.here and node.name != "this node" else ""),
            _state("alive" if node.alive else "no sign of life"),
            "control" if node.control else "node" if node.ingress else "no ingress",
            "does not answer" if node.stale else "answers" if node.alive else NOTHING,
            safe(node.engine) or NOTHING,
            safe(node.version) or NOTHING,
            str(len(node.environments) + node.more),
        )
        for node in view.nodes
    ]
    heads = ("Node", "State", "Role", "Engine", "Docker", "Stackpad", "Environments shown")
    return f"<h2>Nodes</h2>{_table(heads, rows)}"


def _table(heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of cells that are HTML already."""
    names = tuple(heads)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    # The heads once more, for narrow screens, where each row becomes a card.
    body = "".join(
        f"<tr>{''.join(f'<td data-head={chr(34)}{n}{chr(34)}>{c}</td>' for n, c in zip(names, row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _state(state: str) -> str:
    mood = "good" if state == "alive" else kind(state)
    return f'<span class="state {mood}"><i class="dot {mood}"></i>{safe(state)}</span>'


def _more(number: int, what: str) -> str:
    return f'<p class="note">And {number} more {what}; search to see them.</p>' if number > 0 else ""


def _day(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment, datetime.UTC):%Y-%m-%d}"


def _moment(moment: float) -> str:
    when = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}" title="{when:%H:%M:%S} UTC">{when:%Y-%m-%d}</time>'
