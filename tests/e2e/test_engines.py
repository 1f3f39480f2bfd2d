"""Which engines the tests of one node have run on; those that were left out are named as skipped."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import CHOSEN
from tests.testbed.plan import ENGINES
from tests.testbed.testbed import Testbed

VERSIONS = {"debian12": "20.10.", "trixie": "26.1.", "legacy": "26.1."}
"""Of releases that are out. Debian's next one has a newer engine from time to time."""

LEFT_OUT = [
    pytest.param(name, marks=pytest.mark.skip(reason=f"STACKPAD_ENGINES does not name {name}"))
    for name in ENGINES
    if name not in CHOSEN
]


@pytest.mark.parametrize("bed", [*CHOSEN, *LEFT_OUT], indirect=True)
def test_engine_and_firewall_are_what_the_name_says(bed: Testbed) -> None:
    (node,) = bed.nodes
    engine = node.spec.engine
    assert node.engine_version().startswith(VERSIONS.get(engine, ""))
    # Docker's rules and ours are in the back end that the node's own iptables writes to.
    assert "stackpad" in node.exec("iptables", "-S", "DOCKER-USER").stdout
    if engine != "debian12":
        assert ("legacy" in node.exec("iptables", "--version").stdout) == (engine == "legacy")
        assert ("table ip filter" in node.exec("nft", "list", "tables").stdout) == (engine != "legacy")
