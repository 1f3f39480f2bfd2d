"""What the plugin may do on real engines, as the kernel says it, and what it says of that itself."""

from __future__ import annotations

import json

import msgspec

from plugin.privileges import Privileges
from tests import rights
from tests.e2e.workbench import Workbench
from tests.rights import ONLY


def test_the_plugin_may_do_three_things_and_says_so(bench: Workbench) -> None:
    bench.network("shop")
    bench.serve("web", "shop", "--publish", "81:80")
    assert rights.of(bench.node.plugin_init()) == {ONLY}
    assert rights.threads(bench.node.plugin_pid()) > 1
    assert rights.of(bench.node.plugin_pid()) == {ONLY}
    said = json.loads(bench.node.stackpad("status", "--json", check=False).stdout)["plugin"]
    assert msgspec.convert(said["privileges"], Privileges) == ONLY
