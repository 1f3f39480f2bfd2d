"""A drawing of who leads where: hosts on the left, nodes on the right with environments and services in them; pure SVG.

Web services stand at the left edge of their environment, the others at its right, so that no line crosses a box. All
colours are the style sheet's. Whatever the drawing says is also in the page's tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from ingress.page.overview import EnvironmentView, NodeView, Overview, ServiceView

WIDTH = 1080
HOST_X, HOST_WIDTH, HOST_HEIGHT, HOST_STEP = 16, 312, 30, 38
NODE_X, NODE_WIDTH, NODE_HEAD, NODE_GAP = 452, 612, 46, 22
BOX_X, BOX_WIDTH, BOX_HEAD, BOX_GAP = NODE_X + 16, NODE_WIDTH - 32, 34, 12
CHIP_WIDTH, CHIP_HEIGHT, CHIP_STEP = (BOX_WIDTH - 36) // 2, 28, 34
MARGIN = 16

HOSTS = 40
"""Most hosts that are drawn."""


@dataclass(frozen=True, slots=True)
class _Port:
    """Where a line ends: at a service's left edge."""

    y: float
    state: str
    hosts: tuple[str, ...]


def safe(text: str) -> str:
    """A text of anybody's as it may stand in a page: no markup, nothing that turns or hides what is beside it."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def topology(view: Overview) -> str:
    """The drawing."""
    ports: list[_Port] = []
    boxes: list[str] = []
    y: float = MARGIN
    for node in view.nodes:
        drawn, height = _node(node, y, ports)
        boxes += drawn
        y += height + NODE_GAP
    states = {route.host: route.state for route in reversed(view.routes)}
    hosts = _hosts(ports, states)
    bottom = max(y - NODE_GAP, *(place + HOST_HEIGHT / 2 for _, place in hosts), 120.0) + MARGIN
    lines = [_line(place, port) for host, place in hosts for port in ports if host in port.hosts and host in dict(hosts)]
    pills = [_host(host, states.get(host, ""), place) for host, place in hosts]
    if not hosts:
        pills = [f'<text class="faint" x="{HOST_X}" y="40">No host leads to what is shown.</text>']
    label = f"{len(hosts)} hosts, {len(view.nodes)} nodes, {sum(len(n.environments) for n in view.nodes)} environments"
    return (
        f'<svg class="map" viewBox="0 0 {WIDTH} {bottom:g}" role="img" aria-label="{label}, as in the tables">'
        f"{''.join(boxes)}{''.join(lines)}{''.join(pills)}</svg>"
    )


def _hosts(ports: Iterable[_Port], states: Iterable[str]) -> list[tuple[str, float]]:
    """The hosts that lead somewhere, each beside what it leads to as far as there is room."""
    known = set(states)
    targets: dict[str, list[float]] = {}
    for port in ports:
        for host in port.hosts:
            if host in known:
                targets.setdefault(host, []).append(port.y)
    wanted = sorted((sum(ys) / len(ys), host) for host, ys in targets.items())[:HOSTS]
    placed: list[tuple[str, float]] = []
    lowest = MARGIN + HOST_HEIGHT / 2
    for y, host in wanted:
        place = max(y, lowest)
        placed.append((host, place))
        lowest = place + HOST_STEP
    return placed


def _node(node: NodeView, y: float, ports: list[_Port]) -> tuple[list[str], float]:
    inner: list[str] = []
    below = y + NODE_HEAD
    for environment in node.environments:
        drawn, height = _environment(environment, below, ports)
        inner += drawn
        below += height + BOX_GAP
    if node.more:
        inner.append(_text("faint", BOX_X, below + 14, f"and {node.more} more environments"))
        below += 24
    if not node.environments:
        inner.append(_text("faint", BOX_X, below + 8, "no environments to show"))
        below += 24
    height = below - y + 4
    kind = "node" if node.alive else "node gone"
    said = " · ".join(_about(node))
    head = [
        f'<rect class="{kind}" x="{NODE_X}" y="{y:g}" width="{NODE_WIDTH}" height="{height:g}" rx="14"/>',
        _text("node-name", NODE_X + 18, y + 29, _short(node.name, 30)),
        f'<text class="faint" text-anchor="end" x="{NODE_X + NODE_WIDTH - 18}" y="{y + 29:g}">{safe(said)}</text>',
    ]
    return head + inner, height


def _about(node: NodeView) -> Iterator[str]:
    if not node.alive:
        yield "no sign of life"
    if node.stale:
        yield "engine silent"
    if node.control:
        yield "visitors come in here"
    if node.engine:
        yield f"Docker {_short(node.engine, 16)}"


def _environment(environment: EnvironmentView, y: float, ports: list[_Port]) -> tuple[list[str], float]:
    columns = [[s for s in environment.services if s.web], [s for s in environment.services if not s.web]]
    rows = max(1, *map(len, columns))
    height = BOX_HEAD + rows * CHIP_STEP + 6 + (20 if environment.more else 0)
    name = environment.name + (" (internal)" if environment.internal else "")
    drawn = [
        f'<rect class="environment" x="{BOX_X}" y="{y:g}" width="{BOX_WIDTH}" height="{height:g}" rx="10"/>',
        _text("environment-name", BOX_X + 12, y + 22, _short(name, 60)),
    ]
    for column, services in enumerate(columns):
        for row, service in enumerate(services):
            x, top = BOX_X + 12 + column * (CHIP_WIDTH + 12), y + BOX_HEAD + row * CHIP_STEP
            drawn.append(_chip(service, x, top))
            if service.web:
                ports.append(_Port(top + CHIP_HEIGHT / 2, service.state, service.hosts))
    if not environment.services:
        drawn.append(_text("faint", BOX_X + 12, y + BOX_HEAD + 16, "no containers"))
    if environment.more:
        drawn.append(_text("faint", BOX_X + 12, y + height - 10, f"and {environment.more} more services"))
    return drawn, height


def _chip(service: ServiceView, x: float, y: float) -> str:
    count = "" if service.total == 1 else f"{service.up}/{service.total}" if service.web else f"{service.total}"
    middle = y + CHIP_HEIGHT / 2
    return (
        f'<g class="service {kind(service.state)}"><title>{safe(service.name)}: {safe(service.state)}, '
        f"{service.up} of {service.total}</title>"
        f'<rect class="chip" x="{x:g}" y="{y:g}" width="{CHIP_WIDTH}" height="{CHIP_HEIGHT}" rx="8"/>'
        f'<circle class="dot" cx="{x + 14:g}" cy="{middle:g}" r="4.5"/>'
        f"{_text('', x + 26, middle + 4.5, _short(service.name, 24))}"
        f'<text class="faint" text-anchor="end" x="{x + CHIP_WIDTH - 10:g}" y="{middle + 4.5:g}">{count}</text></g>'
    )


def _host(host: str, state: str, y: float) -> str:
    top = y - HOST_HEIGHT / 2
    return (
        f'<g class="host {kind(state)}"><title>{safe(host)}: {safe(state)}</title>'
        f'<rect class="pill" x="{HOST_X}" y="{top:g}" width="{HOST_WIDTH}" height="{HOST_HEIGHT}" rx="15"/>'
        f'<circle class="dot" cx="{HOST_X + 16}" cy="{y:g}" r="4.5"/>'
        f"{_text('', HOST_X + 29, y + 4.5, _short(host, 37))}</g>"
    )


def _line(y: float, port: _Port) -> str:
    x1, x2 = HOST_X + HOST_WIDTH, BOX_X + 12
    bend = (x2 - x1) / 2
    path = f"M{x1} {y:g}C{x1 + bend:g} {y:g} {x2 - bend:g} {port.y:g} {x2} {port.y:g}"
    return f'<path class="line {kind(port.state)}" d="{path}"/>'


def kind(state: str) -> str:
    """The class of a state in the style sheet."""
    if state in {"up", "running", "redirect"}:
        return "good"
    if state in {"starting", "maintenance", "unproved", "held", "allowed"}:
        return "wait"
    return "bad" if state not in {"", "unknown"} else "plain"


def _text(name: str, x: float, y: float, text: str) -> str:
    return f'<text{f" class={chr(34)}{name}{chr(34)}" if name else ""} x="{x:g}" y="{y:g}">{safe(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
