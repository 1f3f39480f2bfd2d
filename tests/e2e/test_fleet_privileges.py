"""What the plugins of a cluster and their children may do, as the kernel says it."""

from __future__ import annotations

import json

from tests import rights
from tests.e2e.life import Life
from tests.e2e.workbench import eventually
from tests.rights import NONE, ONLY, TUNNEL


def test_the_plugin_may_do_three_things_the_tunnel_two_and_the_store_none(life: Life) -> None:
    for number, bench in life.bench.items():
        pid = bench.node.plugin_pid()
        cluster = json.loads(bench.node.stackpad("status", "--json", check=False).stdout)["cluster"]
        expected = {"wireguard-go": {TUNNEL}} if cluster["wireguard"] == "wireguard-go" else {}
        if number == 1:
            expected["etcd"] = {NONE}
        # Beside them a tool may run for a moment.
        eventually(lambda pid=pid, expected=expected: rights.children(pid) == expected, f"{expected} on node {number}")
        assert rights.of(pid) == rights.of(bench.node.plugin_init()) == {ONLY}
