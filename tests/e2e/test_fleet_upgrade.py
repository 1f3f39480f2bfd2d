"""A cluster that is upgraded node by node while its containers talk: what is lost, and that versions live together.

With ``STACKPAD_UPGRADE=1``: each node's plugin is removed and made anew, as ``make install`` does, which takes minutes.
``docs/operations.md`` has what was lost.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.life import ENVIRONMENT, Life
from tests.e2e.workbench import eventually
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import run, say

pytestmark = pytest.mark.skipif(
    not os.environ.get("STACKPAD_UPGRADE"), reason="takes minutes; STACKPAD_UPGRADE=1 to have it"
)

NEXT = "99.0.0"


@pytest.fixture(scope="module")
def builds() -> Iterator[dict[str, Path]]:
    """The plugin as it is, and the same under another version number."""
    now = images.build(only_plugin=True).plugin
    later = now.with_name(f"plugin-{NEXT}")
    shutil.rmtree(later, ignore_errors=True)
    run("cp", "-a", now, later)
    (metadata,) = (later / "rootfs/opt/stackpad/lib").glob("python3*/site-packages/stackpad-*.dist-info/METADATA")
    lines = metadata.read_text().splitlines(keepends=True)
    metadata.write_text("".join(f"Version: {NEXT}\n" if line.startswith("Version: ") else line for line in lines))
    yield {"now": now, NEXT: later}
    shutil.rmtree(later)


def replace(life: Life, number: int, build: Path) -> None:
    """What ``make install`` does on a node that has a plugin."""
    node = life.bench[number].node
    node.docker("plugin", "disable", "--force", PLUGIN)
    node.docker("plugin", "rm", "--force", PLUGIN)
    node.install_plugin(build)
    life.bench[number].wait_plugin()
    eventually(lambda: life.connected(number), "the node to reach the store", 150)


def versions(life: Life, number: int) -> dict[str, str]:
    """The versions by node, as one of them sees them."""
    done = life.bench[number].node.stackpad("node", "ls", "--json", check=False)
    return {row["name"]: row["version"] for row in json.loads(done.stdout)["nodes"]}


def kept_in_the_kernel(life: Life) -> bool:
    """Whether tunnels outlive the plugin: the kernel's WireGuard does, one in a process ends with it."""
    said = life.bench[1].node.stackpad("node", "ls", "--json").stdout
    return bool(json.loads(said)["wireguard"] == "kernel")


def test_node_by_node_under_traffic(life: Life, builds: dict[str, Path]) -> None:
    one, two = life.pair()
    life.bench[1].start("beside", ENVIRONMENT)
    life.bench[3].network(ENVIRONMENT)
    life.bench[3].serve("three", ENVIRONMENT)
    before = {life.name(number): address for number, address in ((1, one), (2, two))}
    with ExitStack() as stack:
        within = stack.enter_context(life.pinging(1, "beside", one))
        across = stack.enter_context(life.pinging(2, "two", one))
        for number in (3, 2, 1):
            replace(life, number, builds[NEXT])
            # Two versions share a store: the older ones go on seeing all, names too.
            eventually(lambda number=number: versions(life, 1)[life.name(number)] == NEXT, "the new version", 60)
            assert set(life.nodes().values()) == {"alive"}
            for who, where, name in (("two", 2, "three"), ("three", 3, "one")):
                eventually(lambda who=who, where=where, name=name: life.finds(where, who, name), f"{name} for {who}")
    say(f"pings sent and answered: within a node {within}, across nodes {across}")
    assert within[0] - within[1] <= 1, "on one node nothing is lost (the last one may have been under way)"
    lost = across[0] - across[1]
    if kept_in_the_kernel(life):
        assert lost <= 3, f"{lost} of {across[0]} across nodes"
    assert across[1] > 0
    assert {
        life.name(number): life.bench[number].node.address_of(name, ENVIRONMENT)
        for number, name in ((1, "one"), (2, "two"))
    } == before
    # And back: an older plugin takes the newer one's state and records, as long as their layouts are its own.
    for number in (1, 2, 3):
        replace(life, number, builds["now"])
    assert life.meet(2, "two", one)
    assert NEXT not in versions(life, 2).values()
