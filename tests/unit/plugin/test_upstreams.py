"""The table of stable upstreams: what is read, who is meant, and what of it the kernel gets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from plugin import upstreams
from plugin.kernel import leading
from plugin.kernel.dataplane import FILTER, Element
from plugin.model import Endpoint, IPAddress, ip_network
from plugin.upstreams import Table, Target
from stackpad.errors import InvalidRequest
from stackpad.upstreams import MOST
from tests.samples import endpoint, network, network6

WEB, OTHER = endpoint(network6(1), 2), endpoint(network6(1), 3)


def read(table: object) -> Table:
    return upstreams.read(json.dumps(table).encode())


def nowhere(_: IPAddress) -> bool:
    return False


def test_what_is_said_is_read() -> None:
    assert read({"20001": ["10.1.2.3:8080", "10.1.2.4:80@" + 64 * "a"], "64999": [], "20002": ["[fd00::2]:1"]}) == {
        20001: (Target("10.1.2.3", 8080), Target("10.1.2.4", 80, 64 * "a")),
        64999: (),
        20002: (Target("fd00::2", 1),),
    }


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "cannot be read"),
        ({"20001": "10.1.2.3:80"}, "cannot be read"),
        ({"20001": [80]}, "cannot be read"),
        ({"19999": []}, "'19999' is no number"),
        ({"65000": []}, "from 20000 to 64999"),
        ({"020001": []}, "is no number"),
        ({"+2001": []}, "is no number"),
        ({"\uff12\uff10\uff10\uff10\uff11": []}, "is no number"),
        ({"": []}, "is no number"),
        ({"20001": ["10.1.2.3"]}, "no address and port"),
        ({"20001": ["10.1.2.3:"]}, "no address and port"),
        ({"20001": ["10.1.2.3:0"]}, "no address and port"),
        ({"20001": ["10.1.2.3:65536"]}, "no address and port"),
        ({"20001": ["10.1.2.3:\uff18\uff10"]}, "no address and port"),
        ({"20001": ["web:80"]}, "no address and port"),
        ({"20001": ["fd00::2:80"]}, "no address and port"),
        ({"20001": ["[10.1.2.3]:80"]}, "no address and port"),
        ({"20001": ["[fd00::2%eth0]:80"]}, "no address and port"),
        ({"20001": ["10.1.2.3:80 . 1, 20002 : 10.9.9.9 . 80"]}, "no address and port"),
        ({"20001": ["10.1.2.3:80@"]}, "no endpoint's id"),
        ({"20001": ["10.1.2.3:80@x } accept"]}, "no endpoint's id"),
        ({"20001": ["127.0.0.1:80"]}, "no container's address"),
        ({"20001": ["169.254.169.254:80"]}, "no container's address"),
        ({"20001": ["0.0.0.0:80"]}, "no container's address"),
        ({"20001": ["224.0.0.1:80"]}, "no container's address"),
        ({"20001": ["[::1]:80"]}, "no container's address"),
        ({"20001": ["[fe80::1]:80"]}, "no container's address"),
        ({"20001": ["10.1.2.3:80", "[fd00::2]:80"]}, "of both families"),
        ({"20001": [f"10.1.2.{host}:80" for host in range(MOST + 1)]}, "at most 16"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_words(table: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        read(table)


def test_no_json_at_all() -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        upstreams.read(b"{")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("10.192.1.2:80", WEB.id),
        ("[fd00:1::2]:80", WEB.id),
        (f"10.192.1.2:80@{WEB.id}", WEB.id),
        ("10.192.1.9:80", ""),
    ],
)
def test_an_address_means_who_has_it(said: str, meant: str) -> None:
    ((target,),) = upstreams.bind(read({"20001": [said]}), [WEB, OTHER]).values()
    assert (target.endpoint, target.network) == (meant, WEB.network_id if meant else "")


@pytest.mark.parametrize(
    ("said", "endpoints"),
    [
        (f"10.192.1.2:80@{OTHER.id}", [WEB, OTHER]),
        (f"10.192.1.2:80@{'f' * 64}", [WEB, OTHER]),
        (f"10.192.1.2:80@{WEB.id}", [replace(WEB, left=True), OTHER]),
        (f"10.192.1.2:80@{WEB.id}", [replace(WEB, sandbox=""), OTHER]),
        (f"10.192.1.2:80@{WEB.id}", []),
        ("10.192.1.2:80", []),
    ],
)
def test_nobody_is_reached_in_the_place_of_who_is_meant(said: str, endpoints: list[Endpoint]) -> None:
    there = {one.id: one for one in endpoints}
    ((target,),) = upstreams.bind(read({"20001": [said]}), there.values()).values()
    assert not upstreams.reachable([target], there, nowhere)


def test_what_was_bound_ends_with_its_endpoint() -> None:
    ((target,),) = upstreams.bind(read({"20001": ["10.192.1.2:80"]}), [WEB]).values()
    assert upstreams.reachable([target], {WEB.id: WEB}, nowhere) == [target]
    successor = replace(WEB, id=64 * "e")
    assert not upstreams.reachable([target], {successor.id: successor}, nowhere)


def test_beyond_this_node_only_what_is_another_nodes() -> None:
    (targets,) = read({"20001": ["10.7.0.2:80", "192.0.2.1:80"]}).values()
    assert upstreams.reachable(targets, {}, lambda ip: ip in ip_network("10.7.0.0/16")) == [Target("10.7.0.2", 80)]


def test_nobody_is_a_number_whose_visitors_wait() -> None:
    assert leading.elements(20001, []) == {Element(FILTER, "upstreams", "20001")}


@pytest.mark.parametrize("count", [2, 3, 5, 16])
@pytest.mark.parametrize("version", [4, 6])
def test_several_have_about_as_many_places_each(count: int, version: int) -> None:
    texts = [f"10.1.0.{host}:80" if version == 4 else f"[fd00::{host:x}]:80" for host in range(1, count + 1)]
    (targets,) = read({"20001": texts}).values()
    found = [element for element in leading.elements(20001, targets) if element.value]
    assert {element.set for element in found} == {f"upstream{version}_shared"}
    assert {element.key for element in found} == {f"20001 . {slot}" for slot in range(0, 32, 2)}
    places = Counter(element.value for element in found)
    assert len(places) == count
    assert max(places.values()) - min(places.values()) <= 1


def test_the_order_in_which_they_are_said_is_nothing() -> None:
    one, other = (
        read({"20001": texts})[20001] for texts in (["10.1.0.1:80", "10.1.0.2:80"], ["10.1.0.2:80", "10.1.0.1:80"])
    )
    assert leading.elements(20001, one) == leading.elements(20001, other)


def test_numbers_that_lead_elsewhere() -> None:
    (targets,) = read({"20001": ["10.1.0.1:80"]}).values()
    (two,) = read({"20003": ["10.1.0.1:80", "10.1.0.2:80"]}).values()
    changed = {*leading.elements(20001, targets), *leading.elements(20002, []), *leading.elements(20003, two)}
    assert leading.numbers(changed) == {20001, 20003}


def test_it_is_kept_as_it_is() -> None:
    (targets,) = upstreams.bind(read({"20001": ["10.192.1.2:80", "10.7.0.2:80"]}), [endpoint(network(1))]).values()
    assert upstreams.decode(upstreams.encode(targets)) == targets
    assert upstreams.decode(upstreams.encode(())) == ()


def test_changes_are_read_as_strictly() -> None:
    changes = json.dumps({"20001": ["10.1.2.3:80"], "20002": None, "20003": []}).encode()
    assert upstreams.read_changes(changes) == {20001: (Target("10.1.2.3", 80),), 20002: None, 20003: ()}
    for body, words in ((b'{"1": null}', "is no number"), (b'{"20001": 1}', "cannot be read"), (b"null", "cannot be")):
        with pytest.raises(InvalidRequest, match=words):
            upstreams.read_changes(body)
