"""What the status page has to say, and how it says it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from html.parser import HTMLParser

import pytest

from ingress.following.remote import Seen
from ingress.page import markup, topology
from ingress.page import overview as seen
from ingress.page.overview import Attached, Overview, PluginWord, overview
from ingress.page.plugindesk import _End, _Network, _Service, word
from ingress.report import Facts
from ingress.routes import State
from tests.browser import fleet

VOID = {"meta", "link", "input", "br", "rect", "circle", "path"}


def shown(facts: Facts, query: str = "", says: PluginWord = fleet.WORD) -> Overview:
    return overview(facts, says, base_domain=fleet.BASE, query=query)


def everything() -> Overview:
    return shown(fleet.facts(*fleet.CONTAINERS))


def services(view: Overview, node: str, environment: str) -> dict[str, tuple[str, int, int]]:
    (found,) = [e for n in view.nodes if n.name == node for e in n.environments if e.name == environment]
    return {service.name: (service.state, service.up, service.total) for service in found.services}


def test_nodes_have_environments_and_those_services() -> None:
    view = everything()
    assert [(node.name, node.control, node.here, node.alive) for node in view.nodes] == [
        ("frankfurt-1", True, True, True), ("frankfurt-2", False, False, True), ("helsinki-1", False, False, True),
    ]  # fmt: skip
    assert services(view, "frankfurt-1", "shop-production") == {
        "api": ("up", 1, 1), "web": ("up", 1, 1), "postgres": ("running", 1, 1), "redis": ("running", 2, 2),
    }  # fmt: skip
    assert services(view, "frankfurt-2", "blog-production") == {"web": ("unhealthy", 0, 1), "mariadb": ("running", 1, 1)}
    assert services(view, "frankfurt-1", "backup") == {}, "a network without containers is shown as well"
    assert (view.environments, view.services) == (8, 14)


def test_those_in_trouble_come_first_and_are_counted() -> None:
    view = everything()
    assert [route.state for route in view.routes[:5]] == ["unproved", "unproved", "unhealthy", "starting", "up"]
    assert view.states == {"maintenance": 1, "starting": 1, "unhealthy": 1, "unproved": 2, "up": 5}


def test_a_web_container_whose_network_nobody_names_is_shown_by_its_owner() -> None:
    view = shown(fleet.facts(*fleet.CONTAINERS), says=PluginWord(problem="the plugin is silent"))
    assert services(view, "frankfurt-1", "shop-production") == {"api": ("up", 1, 1), "web": ("up", 1, 1)}
    assert "the plugin is silent" in view.problems


def test_what_runs_on_a_lost_node_is_not_known() -> None:
    view = shown(fleet.trouble())
    assert not view.nodes[2].alive
    assert services(view, "helsinki-1", "metrics-production")["prometheus"] == ("unknown", 0, 1)


@pytest.mark.parametrize(
    ("query", "routes", "environments"),
    [
        ("wiki", 1, {"wiki-production"}),
        (" WIKI ", 1, {"wiki-production"}),
        ("umbra", 2, {"chat-production", "docs-production"}),
        ("postgres", 0, {"shop-production", "shop-staging"}),
        ("nothing-of-it", 0, set()),
    ],
)
def test_a_search_narrows_what_is_shown_and_no_count(query: str, routes: int, environments: set[str]) -> None:
    view = shown(fleet.facts(*fleet.CONTAINERS), query)
    assert (len(view.routes), {e.name for node in view.nodes for e in node.environments}) == (routes, environments)
    assert (view.states, view.services) == (everything().states, 14)


def test_a_page_has_bounds() -> None:
    many = [
        fleet.container(f"web-{n}", "a1", f"p{n}", state=State.DOWN if n == 700 else State.UP, path=f"/{n}")
        for n in range(1000)
    ]
    view = shown(fleet.facts(*many), says=PluginWord(tuple(Attached("big", f"job-x{n}") for n in range(100))))
    assert (len(view.routes), view.more_routes, view.routes[0].host) == (seen.ROUTES, 800, "p700.acme.example.org")
    assert (len(view.nodes[0].environments), view.nodes[0].more) == (seen.ENVIRONMENTS, 1001 - seen.ENVIRONMENTS)
    assert view.states == {"down": 1, "up": 999}
    html = markup.page(view, markup.parts(view))
    assert len(html) < 200_000
    assert "And 800 more routes" in html


def test_a_node_by_itself() -> None:
    facts = dataclasses.replace(fleet.facts(), seen=Seen())
    view = shown(facts, says=PluginWord((Attached("a", "db"),), (("a", False),)))
    assert [(node.name, node.control) for node in view.nodes] == [("this node", True)]
    assert services(view, "this node", "a") == {"db": ("running", 1, 1)}


def test_both_answers_of_the_plugin_count_once() -> None:
    networks = (_Network("i" * 64, "net", "shop", internal=True, endpoints=(_End("web-1"), _End(None))),)
    told = word(networks, (_Service("shop", "web-1", "frankfurt-1"), _Service("shop", "web-2", "frankfurt-2")))
    view = shown(fleet.facts(), says=told)
    assert services(view, "frankfurt-1", "shop") == {"web": ("running", 1, 1)}
    assert services(view, "frankfurt-2", "shop") == {"web": ("running", 1, 1)}
    assert view.nodes[0].environments[0].internal


class Balanced(HTMLParser):
    """Fails on a tag that closes what is not open; notes attributes that would need a laxer policy."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


EVIL = ("<script>", "'\"><b>", "</svg>", "&amp;", "\u202e", "\x00\x1b[31m", "x" * 300)


@pytest.mark.parametrize("evil", EVIL)
def test_whatever_a_name_is_the_page_is_whole(evil: str) -> None:
    containers = tuple(dataclasses.replace(one, name=evil, reason=evil) for one in fleet.CONTAINERS)
    facts = dataclasses.replace(fleet.facts(*containers), problem=evil, certificate_problems=(evil,))
    view = shown(facts, evil[:1], PluginWord((Attached(evil, evil, evil),), ((evil, True),), evil))
    html = markup.page(view, markup.parts(view))
    check = Balanced()
    check.feed(html)
    check.close()
    assert not check.open
    assert not {name for name in check.attributes if name.startswith("on") or name == "style"}
    assert html.count("<script") == 1
    assert not re.search("[\u202e\x00\x1b]", html)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("web-1", "web-1"),
        ("<b>'\"&", "&lt;b&gt;&#x27;&quot;&amp;"),
        ("a\u202eb\n", "a\\u202eb\\n"),
        ("bücher", "bücher"),
    ],
)
def test_texts_are_made_safe(text: str, safe: str) -> None:
    assert topology.safe(text) == safe


def test_hosts_that_lead_to_near_places_do_not_cover_each_other() -> None:
    many = [fleet.container(f"web-{n}", "a1", "shop", f"e{n}") for n in range(6)]
    far = [fleet.container(f"x-{n}", "a1", "shop", service=f"s{n}", path=f"/{n}") for n in range(6)]
    drawn = topology.topology(shown(fleet.facts(*many, *far)))
    places = [float(y) for y in re.findall(r'class="pill" x="16" y="([0-9.]+)"', drawn)]
    assert len(places) == 7
    assert all(later - sooner >= topology.HOST_HEIGHT for sooner, later in itertools.pairwise(places))


def test_a_node_where_nobody_comes_in_says_where_they_do() -> None:
    made = markup.parts(shown(dataclasses.replace(fleet.facts(), control=False)))
    assert "Visitors come in on frankfurt-1" in made["attention"]
