"""One testbed of one node per engine, for all tests of the session; containers and networks are each test's own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Generator, Iterator

import pytest

from tests.e2e.life import life  # noqa: F401 - a fixture
from tests.e2e.scene import three  # noqa: F401 - a fixture
from tests.e2e.visitor import visitor  # noqa: F401 - a fixture
from tests.e2e.workbench import Workbench
from tests.testbed import testbed
from tests.testbed.plan import USUAL
from tests.testbed.shell import alive
from tests.testbed.testbed import Options, Testbed

_OURS = re.compile(r"t(\d+)-[a-z0-9]+")
"""Names of testbeds of test runs: with the process's id, so that two runs at once do not meet."""

FLEET = os.environ.get("STACKPAD_FLEET", "debian12,forky,forky")

CHOSEN = os.environ.get("STACKPAD_ENGINES", ",".join(USUAL)).split(",")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, saying what is missing, where no testbed can be."""
    needed = ("dockerd", "docker", "debootstrap", "nft", "iptables", "ip")
    missing = [program for program in needed if shutil.which(program) is None]
    reason = "needs root" if os.geteuid() else f"missing: {', '.join(missing)}" if missing else ""
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests" / "e2e"):
            item.add_marker(pytest.mark.e2e)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Beside what a test failed with, the last that its nodes' plugins have logged."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    beds = {made.plan.name: made for made in map(_bed_of, fixtures.values()) if made is not None}
    if report.failed:
        for node in (node for made in beds.values() for node in made.nodes):
            with contextlib.suppress(OSError):
                report.sections.append((f"log of the plugin on {node.name}", node.plugin_log()))
    return report


def _bed_of(fixture: object) -> Testbed | None:
    """The testbed that a fixture is, or is about."""
    return fixture if isinstance(fixture, Testbed) else getattr(fixture, "bed", None)


@pytest.fixture(scope="session", params=CHOSEN)
def bed(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """A testbed of one node with the engine, the plugin, Caddy and the ingress."""
    for left in testbed.running():
        owner = _OURS.fullmatch(left.plan.name)
        if owner is not None and not alive(int(owner[1])):
            left.down()
    made = testbed.make(f"t{os.getpid()}-{request.param}", 1, request.param)
    made.up(Options(images=("test",)))
    yield made
    made.down()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Testbed]:
    """Three nodes, old and new engines, in one cluster made as a user would make it.

    Or, for who writes tests, the testbed named in ``STACKPAD_TESTBED``, which is up and stays so.
    """
    there = testbed.find(os.environ.get("STACKPAD_TESTBED", ""))
    if there is not None:
        yield there
        return
    made = testbed.make(f"t{os.getpid()}-fleet", 3, FLEET)
    made.up(Options(images=("test",), ingress=False))
    yield made
    made.down()


@pytest.fixture
def bench(bed: Testbed) -> Iterator[Workbench]:
    """The node as a place to work at; what a test makes there is removed after it."""
    made = Workbench(bed)
    yield made
    made.clear()
