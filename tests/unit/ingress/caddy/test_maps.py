"""The table in parts says of every host what one list would."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.caddy import maps

HOST, DESTINATIONS, DEFAULTS = "{http.request.host}", ["{sp_up}", "{sp_state}"], ["", "unknown"]


def made(hosts: list[str]) -> list[dict[str, Any]]:
    mappings = [{"input": host, "outputs": [f"10.0.0.1:{number}", "up"]} for number, host in enumerate(hosts)]
    return maps.maps(HOST, DESTINATIONS, mappings, DEFAULTS)


def asked(maps: list[dict[str, Any]], placeholder: str, host: str) -> str:
    """What Caddy has for a placeholder, by modules/caddyhttp/map/map.go."""
    if placeholder == HOST:
        return host
    (owner,) = [one for one in maps if placeholder in one["destinations"]]
    index, source = owner["destinations"].index(placeholder), asked(maps, owner["source"], host)
    for line in owner["mappings"]:
        output = line["outputs"][index]
        if "input_regexp" in line:
            if found := re.search(line["input_regexp"], source):
                return re.sub(r"\$\{(\d)\}", lambda number: found[int(number[1])], output)
        elif line["input"] == source:
            return asked(maps, output, host) if output.startswith("{") else output
    return str(owner["defaults"][index])


NAMES = {
    "numbers": [f"h{number}.acme.stackpad.test" for number in range(2000)],
    "www": [f"www.site{number}.com" for number in range(2000)],
    "short": [f"{one}{two}.{three}.eu" for one in string.ascii_lowercase for two in "abcdefghi" for three in "opqrs"],
    "odd": [*(f"*.x{number}.test" for number in range(1500)), "a.b", "x", "-.b"],
    "alike": [f"{'a' * 20}{number:04}{'b' * 20}.org.test" for number in range(2000)],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_every_host_is_found_and_no_other(names: list[str]) -> None:
    maps = made(names)
    assert len(maps) > 2
    for number in range(0, len(names), 7):
        assert asked(maps, "{sp_up}", names[number]) == f"10.0.0.1:{number}"
        assert asked(maps, "{sp_state}", names[number]) == "up"
    for other in ("", ".", "x.y", "-", "h1.acme.stackpad.tes", "www.site1.com.", names[0] + "x", "{sp_up}", "\n"):
        assert (asked(maps, "{sp_up}", other), asked(maps, "{sp_state}", other)) == ("", "unknown")
    assert sum(len(one["mappings"]) for one in maps[2:]) == len(names)


@settings(max_examples=30)
@given(st.sets(st.from_regex(r"[a-z0-9*-]{1,12}(\.[a-z0-9-]{1,8}){0,3}", fullmatch=True), min_size=1, max_size=20))
def test_with_any_names_beside(names: set[str]) -> None:
    hosts = [*sorted(names - set(NAMES["numbers"])), *NAMES["numbers"][:1200]]
    maps = made(hosts)
    for number, host in enumerate(hosts[: len(names) + 5]):
        assert asked(maps, "{sp_up}", host) == f"10.0.0.1:{number}"


HOSTILE = [
    f"{word}{sign}{part}{sign}{index}.e{part}.evil.example"
    for word in ("sp", "sp.up", "sp.wild", "sp.wild.up", "sp-part")
    for sign in (".", "-")
    for part in range(24)
    for index in range(2)
]
"""Names somebody could choose who has read how the parts are called."""


def test_what_caddy_refuses_is_not_there() -> None:
    """A line whose output or input has a destination's name in it, and two lines with one input."""
    for one in made([*NAMES["numbers"], *HOSTILE]):
        own = [destination.strip("{}") for destination in one["destinations"]]
        inputs = [line.get("input") or line["input_regexp"] for line in one["mappings"]]
        assert len(set(inputs)) == len(inputs)
        for line in one["mappings"]:
            assert not [name for name in own if any(name in text for text in (*line["outputs"], line.get("input", "")))]


@pytest.mark.parametrize("count", [0, 1, maps.SHARE])
def test_a_few_hosts_are_one_map(count: int) -> None:
    (one,) = made(NAMES["numbers"][:count])
    assert len(one["mappings"]) == count


@pytest.mark.parametrize("names", [NAMES["numbers"], NAMES["www"], NAMES["short"]], ids=["numbers", "www", "short"])
def test_a_host_that_comes_moves_no_other(names: list[str]) -> None:
    """A difference shows what is new, whatever the letters are."""

    def parts(hosts: list[str]) -> dict[str, str]:
        return {line["input"]: str(one["destinations"]) for one in made(hosts)[2:] for line in one["mappings"]}

    before = parts(names[:-1])
    assert {host: part for host, part in parts(names).items() if host in before} == before


def test_letters_that_leave_few_steps() -> None:
    """What all names have in common tells nothing, and letters that differ in each are as long a list as the names."""
    assert maps.best(NAMES["www"], 4) == "^[^.]*[.][^.]*([^.]{2})[.]"
    assert maps.best(NAMES["numbers"], 4) in {"^[^.]*([^.])[.]", "^[^.]*([^.]{2})[.]"}
    assert maps.best(["x"], 2) == maps.LETTERS[0]
