"""What is on disk about testbeds: claims, what they say of themselves, half-made ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.testbed import testbed
from tests.testbed.node import Node
from tests.testbed.shell import Failed


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places of our own; nothing here needs root or makes a namespace."""
    monkeypatch.setenv("STACKPAD_TESTBEDS", str(tmp_path / "beds"))
    monkeypatch.setenv("STACKPAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "beds"


def test_what_is_claimed_is_found_again_as_it_was() -> None:
    made = testbed.make("a", 2, "debian12,forky")
    found = testbed.find("a")
    assert found is not None
    assert found.plan == made.plan
    assert testbed.find("b") is None


def test_a_number_is_taken_from_the_claim_on() -> None:
    """Two that come up at the same time build for minutes before they make a link."""
    one, two = testbed.make("a", 1, "debian12"), testbed.make("b", 1, "debian12")
    assert one.plan.number != two.plan.number


def test_a_name_is_claimed_once() -> None:
    testbed.make("a", 1, "debian12")
    with pytest.raises(Failed, match="there is a testbed a already"):
        testbed.make("a", 1, "debian12")


def test_a_refused_plan_claims_nothing(places: Path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        testbed.make("a", 1, "sarge")
    assert not places.exists() or not list(places.iterdir())


def test_one_being_brought_up_is_left_to_who_does_it(places: Path) -> None:
    made = testbed.make("a", 1, "debian12")
    assert made.builder == os.getpid()
    assert not made.whole
    with pytest.raises(Failed, match=f"process {os.getpid()} is bringing testbed a up"):
        testbed.bring_up("a", 1, "debian12", testbed.Options())
    assert (places / "a" / "plan.json").exists()


def test_one_whose_maker_died_is_taken_down_first(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = testbed.make("a", 1, "debian12")
    dead = subprocess.Popen(["true"])
    dead.wait()
    (made.home / "up.pid").write_text(str(dead.pid))
    (made.home / "left behind").touch()
    seen = []

    def down(self: testbed.Testbed) -> None:
        seen.append("down")
        shutil.rmtree(self.home)

    monkeypatch.setattr(testbed.Testbed, "down", down)
    monkeypatch.setattr(testbed.Testbed, "up", lambda self, options: seen.append("up"))
    testbed.bring_up("a", 1, "debian12", testbed.Options())
    assert seen == ["down", "up"]
    assert not (places / "a" / "left behind").exists()


def test_one_that_a_reboot_undid_is_not_whole() -> None:
    """Its directory outlives a reboot of the machine, its namespaces do not."""
    made = testbed.make("never-made", 1, "debian12")
    (made.home / "up.pid").unlink()
    assert made.builder == 0
    assert not made.whole


def test_the_document_has_what_other_programs_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "engine_version", lambda self: "20.10.24")
    monkeypatch.setattr(Node, "root", Path("/proc/1/root"))
    made = testbed.make("a", 2, "debian12")
    said = json.loads(json.dumps(made.document()))
    assert {"nodes", "base_domain", "https", "ca"} <= said.keys()
    assert said["base_domain"] == "stackpad.test"
    assert said["https"] == f"https://{made.nodes[0].address}:443"
    assert [node["name"] for node in said["nodes"]] == ["n1", "n2"]
    for node in said["nodes"]:
        assert {"name", "docker_host", "netns", "address", "engine"} <= node.keys()
        assert node["docker_host"].startswith("unix:///")
        # A socket's path has 107 bytes at most.
        assert len(node["docker_host"].removeprefix("unix://")) < 108 or "pytest" in node["docker_host"]
