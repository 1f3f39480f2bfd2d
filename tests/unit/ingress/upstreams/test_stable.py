"""Numbers of services, where they lead, and what is left for Caddy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingress.routes import State, Table
from ingress.tables import table
from ingress.upstreams import stable
from ingress.upstreams.stable import HOLD, LOOK, Numbers, Service
from stackpad.labels import Wire
from stackpad.routeoptions import RouteOptions
from stackpad.upstreams import FIRST, LAST, MOST
from tests.unit.ingress.test_routes import BASE, container, made

WEB, API = Service("acme/shop/production", "web", ""), Service("acme/shop/production", "api", "/api")
ONE = {"10.0.0.2:80": "e2", "10.0.0.3:80": "e3"}


def told(
    table: Table,
    numbers: dict[Service, int],
    carried: dict[str, str],
    memory: object = None,
    now: float = 0.0,
    nodes: dict[str, str] | None = None,
) -> tuple[dict[tuple[str, str], tuple[str, ...]], object, float | None]:
    """What Caddy is told by host and path."""
    ready = stable.services(table)
    shown, memory, due = stable.shown(table, numbers, ready, carried, memory or {}, now, nodes or {})  # type: ignore[arg-type]
    return {(h.host, p.path): p.upstreams for h in shown.hosts for p in h.paths}, memory, due


GUARDS = [
    RouteOptions(auth=(("bob", "$2b$04$ekq4YyCSNQvhXlC66UeCD.m0v2NoNXC9WfG8gkjskhpiw7rfIt4EO"),)),
    RouteOptions(allow=("192.0.2.0/24",)),
]


def led(table: Table, numbers: Numbers, memory: object = None) -> dict[str, tuple[str, ...]]:
    """To which addresses the visitors of each host get, through Caddy and the kernel."""
    leads = stable.spread(numbers, stable.services(table), ONE, {})
    shown, _, _ = told(table, dict(numbers.given), ONE, memory)
    return {
        host: tuple(
            address
            for dial in dials
            for address in (leads[int(dial.rpartition(":")[2])] if stable.is_stable(dial) else (dial,))
        )
        for (host, _), dials in shown.items()
    }


@pytest.mark.parametrize("options", GUARDS, ids=["auth", "allow"])
def test_what_is_guarded_is_behind_no_number_that_is_not(options: RouteOptions) -> None:
    """Two replicas, of which the second asks for a password, and for a domain of its own."""
    table = made(
        container("web-1"),
        container("web-2", address="10.0.0.3", since=2.0, domains=("preview.example",), options=options),
    )
    ready = stable.services(table)
    assert ready == {WEB: ("10.0.0.2:80",), WEB._replace(guard=options.guard): ("10.0.0.3:80",)}
    assert led(table, stable.allocate(Numbers(), ready)) == {
        "preview.example": ("10.0.0.3:80@e3",),
        "shop.acme.stackpad.test": ("10.0.0.2:80@e2",),
    }


@pytest.mark.parametrize("numbered", [True, False], ids=["numbers", "addresses"])
@pytest.mark.parametrize("options", GUARDS, ids=["auth", "allow"])
def test_caddy_is_told_of_another_guard_with_those_who_ask_for_it(options: RouteOptions, numbered: bool) -> None:
    """The older one, which asks for nothing, is away for a while; when it is back, the route has changed often enough
    for a change to wait."""
    old, new = container("web-1"), container("web-2", address="10.0.0.3", since=2.0, options=options)
    memory: object = {}
    tables = [made(old, new), made(replace(old, state=State.DOWN), new)]
    ready = {service for table in tables for service in stable.services(table)}
    numbers = dict(stable.allocate(Numbers(), ready).given) if numbered else {}
    for second in range(20):
        table = tables[second % 2]
        shown, memory, _ = told(table, numbers, ONE, memory, second / 10)
        guarded = bool(table.hosts[0].paths[0].options.guard)
        dial = f"169.254.53.{{sp_turn}}:{numbers[next(iter(stable.services(table)))]}" if numbered else ""
        assert set(shown.values()) == {(dial or ("10.0.0.3:80" if guarded else "10.0.0.2:80"),)}


def test_before_caddy_has_another_guard_its_containers_are_behind_no_number_that_caddy_has() -> None:
    """The kernel is told first: what Caddy has then has no password yet."""
    options = GUARDS[0]
    before = stable.allocate(Numbers(), stable.services(made(container("a"))))
    ready = stable.services(made(container("b", address="10.0.0.3", options=options)))
    after = stable.allocate(before, {*ready, *before.given})
    leads = stable.spread(after, ready, ONE, {})
    assert leads == {before.given[WEB]: (), after.given[WEB._replace(guard=options.guard)]: ("10.0.0.3:80@e3",)}


def test_a_host_others_ask_for_too_has_addresses_and_the_rest_its_number() -> None:
    """The new version brings a domain with it; the old one has not asked for that."""
    old, new = container("a"), container("b", address="10.0.0.3", domains=("new.example",))
    first = made(old)
    numbers = dict(stable.allocate(Numbers(), stable.services(first)).given)
    both = made(old, new, before=first, now=200.0)
    dial = ("169.254.53.{sp_turn}:20000",)
    shown, memory, _ = told(both, numbers, ONE)
    assert shown == {("new.example", ""): ("10.0.0.3:80",), ("shop.acme.stackpad.test", ""): dial}
    gone = made(new, before=both)
    assert set(told(gone, numbers, ONE, memory, 10.0)[0].values()) == {dial}


def test_the_services_of_a_table() -> None:
    table = made(
        container("a", domains=("x.example",)),
        container("b", address="10.0.0.3", domains=("x.example",)),
        container("api", service="api", path="/api", address="10.0.0.4", state=State.DOWN),
        container("grpc", project="grpc", wire=Wire.H2C, address="10.0.0.5"),
    )
    assert stable.services(table) == {WEB: ("10.0.0.2:80", "10.0.0.3:80"), API: ()}


@pytest.mark.parametrize(
    ("before", "wanted", "taken", "given", "last"),
    [
        (Numbers(), [], (), {}, FIRST - 1),
        (Numbers(), [WEB, API], (), {API: FIRST, WEB: FIRST + 1}, FIRST + 1),
        (Numbers(FIRST + 1, {API: FIRST, WEB: FIRST + 1}), [WEB], (), {WEB: FIRST + 1}, FIRST + 1),
        # What was given back is not the next to be given.
        (Numbers(FIRST + 1, {WEB: FIRST + 1}), [WEB, API], (), {WEB: FIRST + 1, API: FIRST + 2}, FIRST + 2),
        (Numbers(LAST, {WEB: FIRST}), [WEB, API], (), {WEB: FIRST, API: FIRST + 1}, FIRST + 1),
        (Numbers(), [WEB], (FIRST, FIRST + 1), {WEB: FIRST + 2}, FIRST + 2),
        # A number that ends now is not given in the same breath.
        (Numbers(LAST, {API: FIRST}), [WEB], (), {WEB: FIRST + 1}, FIRST + 1),
    ],
)
def test_numbers_stay_and_are_not_given_again_soon(
    before: Numbers, wanted: list[Service], taken: tuple[int, ...], given: dict[Service, int], last: int
) -> None:
    assert stable.allocate(before, wanted, taken) == Numbers(last, given)


def test_when_there_are_no_more_the_rest_has_none() -> None:
    many = [Service("o", f"s{number}", "") for number in range(LAST - FIRST + 3)]
    numbers = stable.allocate(Numbers(), many)
    assert len(numbers.given) == len(set(numbers.given.values())) == LAST - FIRST + 1
    again = stable.allocate(numbers, many[5:])
    assert all(again.given[service] == numbers.given[service] for service in many[5:] if service in numbers.given)


def test_what_the_kernel_is_told() -> None:
    numbers = Numbers(FIRST + 1, {WEB: FIRST, API: FIRST + 1})
    ready = {WEB: ("10.0.0.2:80", "10.0.0.3:80")}
    assert stable.spread(numbers, ready, {**ONE, "10.0.0.3:80": ""}, {}) == {
        FIRST: ("10.0.0.2:80@e2", "10.0.0.3:80"),
        FIRST + 1: (),
    }
    assert stable.spread(numbers, ready, {"10.0.0.2:80": "e2"}, {})[FIRST] == (), "not a part of those who are up"
    six = {WEB: ("10.0.0.2:80", "[fd00::3]:80")}
    assert stable.spread(numbers, six, ONE, {})[FIRST] == ("10.0.0.2:80@e2",)


def test_more_than_there_is_room_for() -> None:
    many = [container(str(host), address=f"10.0.0.{host}") for host in range(2, 40)]
    ready = stable.services(made(*many))
    carried = {f"10.0.0.{host}:80": "" for host in range(2, 40)}
    assert len(stable.spread(Numbers(FIRST, {WEB: FIRST}), ready, carried, {})[FIRST]) == MOST


NODES = {"10.0.0.2:80": "b", "10.0.0.3:80": "c"}
PARTS = {WEB: FIRST, WEB._replace(part=1): FIRST + 1}
BOTH = made(container("a"), container("b", address="10.0.0.3"))


def test_a_service_on_several_nodes_has_a_number_for_each() -> None:
    ready = stable.services(BOTH)
    assert stable.parts(ready, {}) == {WEB}
    assert stable.parts(ready, NODES) == PARTS.keys()
    assert stable.parts({WEB: ()}, NODES) == {WEB}
    many = {WEB: tuple(f"10.0.0.{host}:80" for host in range(2, 40))}
    assert len(stable.parts(many, {upstream: upstream for upstream in many[WEB]})) == stable.PARTS


@pytest.mark.parametrize(
    ("ready", "applied", "leads"),
    [
        (("10.0.0.2:80", "10.0.0.3:80"), PARTS, (("10.0.0.2:80",), ("10.0.0.3:80",))),
        # As long as Caddy has one of them only, that one leads to all.
        (("10.0.0.2:80", "10.0.0.3:80"), {WEB}, (("10.0.0.2:80", "10.0.0.3:80"), ("10.0.0.3:80",))),
        # One node has nobody left.
        (("10.0.0.3:80",), PARTS, (("10.0.0.3:80",),) * 2),
        ((), PARTS, ((), ())),
    ],
)
def test_where_they_lead(
    ready: tuple[str, ...], applied: set[Service], leads: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    told = stable.spread(Numbers(FIRST + 1, PARTS), {WEB: ready}, dict.fromkeys(NODES, ""), NODES, applied)
    assert (told[FIRST], told[FIRST + 1]) == leads


def test_nodes_that_come_and_go_change_the_numbers_after_a_while() -> None:
    carried = dict.fromkeys(NODES, "")
    one, two = ("169.254.53.{sp_turn}:20000",), ("169.254.53.{sp_turn}:20000", "169.254.53.{sp_turn}:20001")
    first, second = made(container("a")), made(container("b", address="10.0.0.3"))

    def at(table: Table, now: float, memory: object) -> tuple[set[tuple[str, ...]], object, float | None]:
        shown, memory, due = told(table, PARTS, carried, memory, now, NODES)
        return set(shown.values()), memory, due

    shown, memory, _ = at(first, 0.0, {})
    assert shown == {one}
    # The new version on another node, then the old one goes.
    shown, memory, due = at(BOTH, 100.0, memory)
    assert (shown, due) == ({one}, 100.0 + LOOK)
    shown, memory, due = at(second, 110.0, memory)
    assert (shown, due) == ({one}, None)
    # To stay on both is told, and that one is gone again as well.
    _, memory, _ = at(BOTH, 200.0, memory)
    shown, memory, due = at(BOTH, 200.0 + LOOK, memory)
    assert (shown, due) == ({two}, None)
    shown, memory, due = at(first, 300.0, memory)
    assert (shown, due) == ({two}, 300.0 + LOOK)
    assert at(first, 300.0 + LOOK, memory)[0] == {one}


def test_caddy_is_told_a_number_that_stays() -> None:
    numbers = {WEB: 20007}
    table = made(container("a", domains=("x.example",)))
    second = container("b", address="10.0.0.3", domains=("x.example",))
    both = made(container("a", domains=("x.example",)), second, before=table)
    dial = ("169.254.53.{sp_turn}:20007",)
    expected = {("shop.acme.stackpad.test", ""): dial, ("x.example", ""): dial}
    for there in (table, both):
        assert told(there, numbers, ONE)[0] == expected
    ready = stable.services(both)
    shown, _, _ = stable.shown(both, numbers, ready, ONE, {}, 0.0, {})
    assert all(host.simple is not None for host in shown.hosts), "a line of the table, with replicas too"


@pytest.mark.parametrize(
    ("numbers", "carried"),
    [({}, ONE), ({WEB: 20000}, {}), ({WEB: 20000}, {"10.0.0.2:80": "e2"})],
    ids=["no number", "nobody the kernel may lead to", "not all of them"],
)
def test_addresses_where_there_is_no_number_for_all(numbers: dict[Service, int], carried: dict[str, str]) -> None:
    table = made(container("a"), container("b", address="10.0.0.3"))
    assert set(told(table, numbers, carried)[0].values()) == {("10.0.0.2:80", "10.0.0.3:80")}


def test_ipv6_alone_has_the_other_address() -> None:
    table = made(container("a", address="fd00::2"))
    assert set(told(table, {WEB: 20000}, {"[fd00::2]:80": ""})[0].values()) == {("[fd9c:5acd:5353::{sp_turn}]:20000",)}


def test_what_speaks_http2_without_tls_has_addresses() -> None:
    table = made(container("a", wire=Wire.H2C))
    assert set(told(table, {WEB: 20000}, ONE)[0].values()) == {("10.0.0.2:80",)}


def test_nobody_left_is_told_after_a_while_and_only_with_a_number() -> None:
    table = made(container("a"))
    gone = made(container("a", state=State.DOWN, address=None), before=table)
    _, memory, _ = told(table, {WEB: 20000}, ONE)
    shown, memory, due = told(gone, {WEB: 20000}, ONE, memory, 100.0)
    assert (set(shown.values()), due) == ({("169.254.53.{sp_turn}:20000",)}, 100.0 + HOLD)
    shown, _, due = told(gone, {WEB: 20000}, ONE, memory, 100.0 + HOLD)
    assert (set(shown.values()), due) == ({()}, None)
    _, memory, _ = told(table, {}, ONE)
    assert set(told(gone, {}, ONE, memory, 100.0)[0].values()) == {()}


def test_what_people_are_shown_stays_true() -> None:
    table = made(container("a"))
    gone = made(container("a", state=State.DOWN, address=None), before=table)
    _, memory, _ = told(table, {WEB: 20000}, ONE)
    shown, _, _ = stable.shown(gone, {WEB: 20000}, stable.services(gone), ONE, memory, 1.0, {})  # type: ignore[arg-type]
    assert shown.hosts[0].state is State.DOWN
    assert replace(shown, hosts=()) == replace(gone, hosts=())


def test_what_is_the_same_stays_the_same_object_and_what_is_not_does_not() -> None:
    """Else ten thousand hosts would be compared, and told, anew at each change of one."""
    first = made(container("web"), container("api", project="till", address="10.0.0.3"))
    carried = {"10.0.0.2:80": "e", "10.0.0.3:80": "e", "10.0.0.4:80": "e"}
    keys = stable.known(first)
    numbers = stable.allocate(Numbers(), stable.services(first, keys))
    one, memory, _ = stable.shown(first, numbers.given, stable.services(first, keys), carried, {}, 0.0, {}, keys=keys)
    last = {host.host: (host, shown) for host, shown in zip(first.hosts, one.hosts, strict=True)}
    changed = container("api", project="till", address="10.0.0.4", options=GUARDS[0])
    there = first.made["shop.acme.stackpad.test"].containers
    second = table([*there, changed], first.ledger, base_domain=BASE, now=100.0, believe=True, last=first.made)
    keys = stable.known(second, keys)
    ready = stable.services(second, keys)
    assert ready == stable.services(second), "remembered or not"
    assert stable.allocate(numbers, numbers.given) is numbers
    two, _, _ = stable.shown(second, numbers.given, ready, carried, memory, 1.0, {}, last, keys)
    assert (two.hosts[0] is one.hosts[0], two.hosts[1] is one.hosts[1]) == (True, False)
    assert two.hosts == stable.shown(second, numbers.given, ready, carried, memory, 1.0, {})[0].hosts
    assert [service.guard != "" for service in ready] == [False, True]
