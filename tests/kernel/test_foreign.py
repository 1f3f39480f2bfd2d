"""Our accepts in Docker's chains, in a real iptables of both families and both back ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from plugin.kernel.firewall import generation
from plugin.kernel.foreign import HELD, RULES, ForeignChains
from tests.netns import PROC, run

TOOLS = tuple(f"{family}-{back_end}" for family in ("iptables", "ip6tables") for back_end in ("nft", "legacy"))
NFT, LEGACY = TOOLS[::2], TOOLS[1::2]
DOCKER = (
    "*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\nCOMMIT\n"
)
DROPS = '-s 203.0.113.0/24 -m comment --comment "keep \\"them\\" out" -j DROP'


@pytest.fixture
def chains(netns: None, tmp_path: Path) -> ForeignChains:
    return ForeignChains(tmp_path, PROC)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest, netns: None) -> str:
    """Each command that there is; the kernel may have been built without the old back end."""
    name = str(request.param)
    if name in LEGACY and subprocess.run([name, "-S"], capture_output=True, check=False).returncode:
        pytest.skip(f"the kernel has no tables for {name}")
    return name


def rules(tool: str, chain: str = "DOCKER-USER") -> list[str]:
    listed = run(tool, "-S", chain).replace('"stackpad"', "stackpad").splitlines()
    return [line.removeprefix(f"-A {chain} ") for line in listed if line.startswith("-A")]


def test_a_machine_without_docker_is_left_alone(chains: ForeignChains) -> None:
    assert chains.repair() == []
    assert "chain" not in run("nft", "list", "ruleset")


def test_docker_user_is_mended_once(chains: ForeignChains, tool: str) -> None:
    run(f"{tool}-restore", script=DOCKER)
    assert chains.repair() == [f"{tool} DOCKER-USER", f"{tool} FORWARD"]
    assert rules(tool) == [*RULES, "-j RETURN"]
    assert rules(tool, "FORWARD") == ["-j DOCKER-USER", *HELD]
    before = generation()
    assert chains.repair() == []
    assert generation() == before, "a look must not be a change, or every look would cause the next"


def test_forward_where_there_is_no_docker_user(chains: ForeignChains, tool: str) -> None:
    run(tool, "-P", "FORWARD", "DROP")
    assert chains.repair() == [f"{tool} FORWARD"]
    assert rules(tool, "FORWARD") == list(RULES)
    assert chains.repair() == []


def test_forward_that_accepts_needs_nothing(chains: ForeignChains) -> None:
    run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    assert chains.repair() == []


def test_both_families_at_once(chains: ForeignChains) -> None:
    for tool in NFT:
        run(f"{tool}-restore", script=DOCKER)
    assert chains.repair() == [f"{tool} {chain}" for tool in NFT for chain in ("DOCKER-USER", "FORWARD")]


@pytest.mark.replay("S43")
@pytest.mark.parametrize(
    "damage",
    [
        ["-F", "DOCKER-USER"],
        ["-D", "DOCKER-USER", "1"],
        ["-D", "DOCKER-USER", "2"],
        ["-I", "DOCKER-USER", "1", "-j", "RETURN"],
    ],
)
def test_damage_is_mended(chains: ForeignChains, tool: str, damage: list[str]) -> None:
    run(f"{tool}-restore", script=DOCKER)
    chains.repair()
    run(tool, *damage)
    assert chains.repair() == [f"{tool} DOCKER-USER"]
    assert rules(tool)[:2] == list(RULES)
    assert chains.repair() == []


def test_a_flush_of_everything_is_mended(chains: ForeignChains, tool: str) -> None:
    """The chains and the policy stay after ``iptables -F``, and without Docker's jump nobody would come to ours."""
    run(f"{tool}-restore", script=DOCKER)
    chains.repair()
    run(tool, "-F")
    assert chains.repair() == [f"{tool} DOCKER-USER", f"{tool} FORWARD"]
    assert rules(tool, "FORWARD") == ["-j DOCKER-USER", *HELD]
    assert rules(tool) == list(RULES)
    assert chains.repair() == []


def test_what_runs_is_held_after_all_that_others_say(chains: ForeignChains) -> None:
    """An engine takes its jump out and puts it in again; whatever it or an operator adds comes before ours."""
    run("iptables-nft-restore", script=DOCKER)
    chains.repair()
    run("iptables-nft", "-D", "FORWARD", "-j", "DOCKER-USER")
    assert rules("iptables-nft", "FORWARD") == list(HELD)
    run("iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER")
    assert chains.repair() == []
    run("iptables-nft-restore", "--noflush", script=f"*filter\n-A FORWARD {DROPS}\nCOMMIT\n")
    assert chains.repair() == ["iptables-nft FORWARD"]
    jump, drops, *ours = rules("iptables-nft", "FORWARD")
    assert jump == "-j DOCKER-USER"
    assert "203.0.113.0/24" in drops
    assert ours == list(HELD)
    chains.remove()
    assert rules("iptables-nft", "FORWARD") == [jump, drops]


def test_somebodys_own_way_to_docker_user_is_left_alone(chains: ForeignChains) -> None:
    run("iptables-nft-restore", script=DOCKER.replace("-A FORWARD -j", "-A FORWARD -i eth0 -j"))
    assert chains.repair() == ["iptables-nft DOCKER-USER", "iptables-nft FORWARD"]
    assert rules("iptables-nft", "FORWARD") == ["-i eth0 -j DOCKER-USER", *HELD]
    run("iptables-nft", "-P", "FORWARD", "ACCEPT")
    run("iptables-nft", "-F", "FORWARD")
    assert chains.repair() == []


@pytest.mark.replay("S43")
@pytest.mark.parametrize("tool", TOOLS[:2], indirect=True)
def test_what_the_operator_wrote_stays_where_it_was(chains: ForeignChains, tool: str) -> None:
    run(f"{tool}-restore", script=DOCKER)
    run(f"{tool}-restore", "--noflush", script=f"*filter\n-I DOCKER-USER {DROPS}\nCOMMIT\n")
    (drops, _) = rules(tool)
    chains.repair()
    assert rules(tool) == [drops, *RULES, "-j RETURN"]
    run(tool, "-D", "DOCKER-USER", "3")
    chains.repair()
    assert rules(tool) == [drops, *RULES, "-j RETURN"]
    chains.remove()
    assert rules(tool) == [drops, "-j RETURN"]
    chains.remove()


def test_the_rules_as_we_write_them_are_the_rules_as_they_are_listed(chains: ForeignChains, tool: str) -> None:
    """Otherwise each look would find them missing."""
    run(f"{tool}-restore", script=DOCKER)
    chains.repair()
    assert [line for line in rules(tool) if line != "-j RETURN"] == list(RULES)


@pytest.mark.parametrize("tool", LEGACY, indirect=True)
def test_both_back_ends_in_use_at_once(chains: ForeignChains, tool: str) -> None:
    """As after a change from one to the other with no reboot since: each is mended, and neither is made for it."""
    other = tool.replace("legacy", "nft")
    run(f"{tool}-restore", script=DOCKER)
    chains.repair()
    assert rules(tool) == [*RULES, "-j RETURN"]
    assert "stackpad" not in run("nft", "list", "ruleset")
    run(f"{other}-restore", script=DOCKER)
    assert chains.repair() == [f"{other} DOCKER-USER", f"{other} FORWARD"]
    assert rules(other) == rules(tool)
    chains.remove()
    assert rules(other) == rules(tool) == ["-j RETURN"]
