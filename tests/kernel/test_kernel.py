"""The adapter as a whole: several networks' changes at once, and what one's trouble is to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugin.kernel.dataplane import EMPTY, FILTER, Element, desired, plan, union
from plugin.kernel.writer import Kernel
from tests.netns import PROC, ip
from tests.samples import endpoint, network

ONE, TWO = (desired(network(n), [endpoint(network(n))], uplink_mtu=1500) for n in (1, 2))
FORGED = Element(FILTER, "node4", "not an address")


@pytest.fixture
async def kernel(netns: None, tmp_path: Path) -> AsyncIterator[Kernel]:
    async with Kernel(run=tmp_path, proc=PROC) as opened:
        await opened.install_firewall(frozenset())
        yield opened


async def test_several_networks_at_once(kernel: Kernel) -> None:
    assert await kernel.apply([plan(ONE, EMPTY), plan(TWO, EMPTY)]) == [None, None]
    seen = await kernel.observe()
    assert replace(seen.links, elements=seen.elements or frozenset()) == union([ONE, TWO])
    assert await kernel.firewall_intact()


async def test_elements_that_are_refused_are_one_networks_trouble(kernel: Kernel) -> None:
    bad = replace(ONE, elements=ONE.elements | {FORGED})
    first, second = await kernel.apply([plan(bad, EMPTY), plan(TWO, EMPTY)])
    assert "nft refused" in str(first)
    assert second is None
    assert await kernel.observe_firewall() == TWO.elements


async def test_links_that_are_refused_are_one_networks_trouble(kernel: Kernel) -> None:
    ip("link", "add", network(1).bridge, "type", "bridge")
    first, second = await kernel.apply([plan(ONE, EMPTY), plan(TWO, EMPTY)])
    assert "not ours" in str(first)
    assert second is None
    assert await kernel.observe_firewall() == TWO.elements


async def test_what_is_taken_away_goes_behind_its_rules(kernel: Kernel) -> None:
    await kernel.apply([plan(ONE, EMPTY)])
    assert await kernel.apply([plan(EMPTY, ONE)]) == [None]
    seen = await kernel.observe()
    assert (seen.links, seen.elements) == (EMPTY, frozenset())


async def test_calls_at_once_are_done_one_after_the_other(kernel: Kernel) -> None:
    wanted = [desired(network(n), [], uplink_mtu=1500) for n in range(1, 9)]
    await asyncio.gather(*(kernel.apply([plan(part, EMPTY)]) for part in wanted))
    seen = await kernel.observe()
    assert seen.links.bridges == union(wanted).bridges
    assert await kernel.firewall_intact()


async def test_closing_leaves_everything_in_place(netns: None, tmp_path: Path) -> None:
    async with Kernel(run=tmp_path, proc=PROC) as first:
        await first.install_firewall(ONE.elements)
        await first.apply([plan(replace(ONE, elements=frozenset()), EMPTY)])
    async with Kernel(run=tmp_path, proc=PROC) as second:
        assert not plan(replace(ONE, elements=frozenset()), (await second.observe()).links)
        assert not await second.firewall_intact()


async def test_taking_the_rules_away(kernel: Kernel) -> None:
    await kernel.remove_rules()
    assert await kernel.observe_firewall() is None
