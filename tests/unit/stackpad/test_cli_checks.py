"""What the doctor concludes, without a node."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from stackpad.cli.checks import diagnose, failed
from stackpad.cli.examine import Places, examine
from stackpad.cli.facts import Facts, Level, Unknown
from stackpad.cli.reports import NetworkReport, RouteProblem, Routes, Status
from stackpad.listening import Place
from tests.unit.stackpad.canned import NETWORKS, STATUS

ACCEPTS = (
    '-P FORWARD DROP\n-N DOCKER-USER\n-A DOCKER-USER -i sp-+ -m comment --comment "stackpad" -j ACCEPT\n'
    "-A DOCKER-USER -o sp-+ -m comment --comment stackpad -j ACCEPT\n-A DOCKER-USER -j RETURN\n"
)
LOST = msgspec.convert(NETWORKS[0], NetworkReport)
NETWORK = msgspec.structs.replace(LOST, endpoints=LOST.endpoints[:1])
WELL = Facts(
    status=msgspec.convert(STATUS, Status),
    networks=(NETWORK,),
    plain_socket="/run/docker/plugins/stackpad.sock",
    engine_version="28.5.2",
    engine_networks={NETWORK.id: "my-app-production"},
    engine_endpoints=frozenset(endpoint.id for endpoint in NETWORK.endpoints),
    forwarding={"net.ipv4.ip_forward": True},
    tables=frozenset({"inet stackpad", "bridge stackpad", "ip nat"}),
    filters={"iptables": ACCEPTS},
    mtus={NETWORK.bridge: 1500},
    ingress=Routes(),
    caddy="/run/caddy/admin.sock",
)


def level(facts: Facts, name: str) -> Level:
    (check,) = [check for check in diagnose(facts) if check.name == name]
    assert bool(check.remedy) is (check.level in {Level.WARNING, Level.PROBLEM}), check
    return check.level


def test_a_sound_node() -> None:
    checks = diagnose(WELL)
    assert {check.level for check in checks} == {Level.OK}
    assert not failed(checks)


def test_a_plugin_that_says_what_is_wrong_need_not_be_enabled() -> None:
    said = replace(WELL, status=Unknown("the state file net.db cannot be used: it is malformed"))
    away = replace(WELL, status=Unknown("not there"), plain_socket=Unknown("not there"))
    remedies = [diagnose(facts)[0].remedy for facts in (said, away)]
    assert ["docker plugin enable" in remedy for remedy in remedies] == [False, True]
    assert "put that right" in remedies[0]


def test_an_ingress_that_has_ended_is_not_none(tmp_path: Path) -> None:
    none = tmp_path / "none"
    places = replace(Places(), state=tmp_path, plugin=none, plain=none, engine=none, ingress=none, caddy=none)
    assert examine(places).ingress is None
    (tmp_path / "ingress").mkdir()
    (tmp_path / "ingress" / "claims.json").touch()
    (check,) = [one for one in diagnose(examine(places)) if one.name == "ingress"]
    assert check.level is Level.PROBLEM
    assert check.detail.endswith("ingress/claims.json is its), and it does not run")
    assert check.remedy.startswith("docker start stackpad-ingress")


def test_what_an_earlier_ingress_knew_is_not_left_unnoticed(tmp_path: Path) -> None:
    (tmp_path / "ingress").mkdir()
    (tmp_path / "claims.json").touch()
    places = replace(
        Places(), state=tmp_path, plugin=tmp_path / "none", plain=tmp_path / "none", engine=tmp_path / "none"
    )
    assert examine(places).left == (), "an ingress of that time may be at work with it"
    (tmp_path / "ingress" / "claims.json").touch()
    left = examine(places).left
    assert left == (str(tmp_path / "claims.json"),)
    assert level(replace(WELL, left=left), "state of the ingress") is Level.WARNING


def test_without_root_what_cannot_be_looked_into_is_nothing_left(tmp_path: Path) -> None:
    closed = tmp_path / "stackpad"
    (closed / "ingress").mkdir(parents=True)
    for directory in (closed, closed / "ingress"):
        (directory / "claims.json").touch()
    places = replace(
        Places(), state=closed, plugin=closed / "none", plain=closed / "none", engine=closed / "none", caddy=closed / "c"
    )
    assert examine(places).left
    closed.chmod(0o700)
    mine = os.geteuid()
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            os.stat(closed / "claims.json")
        assert examine(places).left == ()
        assert Place(closed / "new.sock", closed / "claims.json").now == closed / "new.sock"
    finally:
        os.seteuid(mine)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("20.10.24+dfsg1", Level.OK),
        ("28.5.2", Level.OK),
        ("29.0.3", Level.OK),
        ("29.1", Level.OK),
        ("29.0.0", Level.WARNING),
        ("29.0.2", Level.WARNING),
        ("dev", Level.WARNING),
        ("19.03.15", Level.PROBLEM),
        (Unknown("silent"), Level.PROBLEM),
    ],
)
def test_engines(version: str | Unknown, expected: Level) -> None:
    assert level(replace(WELL, engine_version=version), "engine") is expected


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        (ACCEPTS, Level.OK),
        (ACCEPTS.replace(" -o ", " -i "), Level.PROBLEM),
        ("-P FORWARD DROP\n-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n", Level.PROBLEM),
        ("-P FORWARD DROP\n", Level.PROBLEM),
        (ACCEPTS.replace("-N DOCKER-USER\n", "").replace("-A DOCKER-USER", "-A FORWARD"), Level.OK),
        ("-P FORWARD ACCEPT\n", Level.OK),
        (Unknown("there is no iptables command"), Level.SKIPPED),
    ],
)
def test_accepts(listing: str | Unknown, expected: Level) -> None:
    assert level(replace(WELL, filters={"iptables": listing}), "iptables accepts") is expected


@pytest.mark.parametrize(
    ("mtus", "network_mtu", "expected"),
    [
        ({NETWORK.bridge: 1500}, 1500, Level.OK),
        ({NETWORK.bridge: 1400}, 1400, Level.OK),
        ({}, 1500, Level.PROBLEM),
        ({NETWORK.bridge: 1400}, 1500, Level.WARNING),
        ({NETWORK.bridge: 9000}, 9000, Level.WARNING),
    ],
)
def test_mtu(mtus: dict[str, int], network_mtu: int, expected: Level) -> None:
    network = msgspec.structs.replace(NETWORK, mtu=network_mtu)
    assert level(replace(WELL, networks=(network,), mtus=mtus), "MTU") is expected


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 262144, Level.OK), (899, 1000, Level.OK), (900, 1000, Level.WARNING), (999, 1000, Level.WARNING),
     (1000, 1000, Level.PROBLEM), (1003, 1000, Level.PROBLEM), (1000, 0, Level.OK)],
)  # fmt: skip
def test_tracked_connections(count: int, most: int, expected: Level) -> None:
    facts = replace(WELL, connections=(count, most))
    assert level(facts, "connections") is expected
    (check,) = [check for check in diagnose(facts) if check.name == "connections"]
    assert ("new ones fail" in check.detail) is (expected is not Level.OK)


def test_missing_tables_and_forwarding_are_problems() -> None:
    facts = replace(WELL, tables=frozenset({"inet stackpad"}), forwarding={"net.ipv4.ip_forward": False})
    assert level(facts, "firewall") is level(facts, "forwarding") is Level.PROBLEM


FIREWALLD = """table inet firewalld {
	chain filter_FORWARD_POLICIES {
		iifname "eth0" oifname "sp-*" jump filter_FWD_trusted
		iifname "%(link)s" oifname "%(link)s" jump filter_FWD_%(zone)s
		iifname "%(link)s" oifname "%(link)s" accept
		iifname "%(link)s" jump filter_FWD_%(zone)s
		iifname "%(link)s" accept
		oifname "%(link)s" jump filter_FWD_public
		oifname "%(link)s" reject with icmpx admin-prohibited
	}
	chain filter_FWD_%(zone)s_allow {
		oifname "%(link)s" accept
	}
}"""
"""As 2.3.1 has it, where the link to the other nodes is trusted."""


@pytest.mark.parametrize(
    ("told", "expected", "change"),
    [
        (("sp-*", "trusted"), Level.OK, ""),
        (("br-1", "trusted"), Level.PROBLEM, "-interface=sp-+"),
        (("sp-*", "drop"), Level.PROBLEM, "--change-interface"),
        (("sp-*", "public"), Level.PROBLEM, "--change-interface"),
        (("sp-*", "trusted_not"), Level.PROBLEM, "--change-interface"),
    ],
)
def test_a_firewalld_that_knows_our_links_or_not(told: tuple[str, str], expected: Level, change: str) -> None:
    link, zone = told
    facts = replace(WELL, firewalld=FIREWALLD % {"link": link, "zone": zone})
    assert level(facts, "firewalld") is expected
    (check,) = [check for check in diagnose(facts) if check.name == "firewalld"]
    assert change in check.remedy
    untold = replace(facts, firewalld=FIREWALLD.replace("sp-*", "br-1") % {"link": "br-1", "zone": zone})
    (check,) = [check for check in diagnose(untold) if check.name == "firewalld"]
    assert "--add-interface=sp-+" in check.remedy
    # Before 1.0 there was a chain for each direction.
    earlier = f'iifname "{link}" goto filter_FWDI_{zone}\noifname "sp-*" goto filter_FWDO_trusted'
    assert level(replace(facts, firewalld=earlier), "firewalld") is expected


def test_what_could_not_be_looked_at_is_skipped_not_passed() -> None:
    facts = replace(WELL, tables=Unknown("nft crashed"))
    assert level(facts, "firewall") is Level.SKIPPED
    assert not failed(diagnose(facts))


def test_networks_of_one_side_only() -> None:
    assert level(replace(WELL, engine_networks={NETWORK.id: "a", "ff": "lost"}), "networks") is Level.PROBLEM
    assert level(replace(WELL, engine_networks={}), "networks") is Level.WARNING


def test_endpoints_nobody_has_and_links_that_are_gone() -> None:
    assert level(replace(WELL, engine_endpoints=frozenset()), "endpoints") is Level.WARNING
    lost = replace(WELL, networks=(LOST,), engine_endpoints=frozenset(endpoint.id for endpoint in LOST.endpoints))
    assert level(lost, "endpoints") is Level.PROBLEM


def test_many_names_are_cut_short() -> None:
    many = {f"{number:064x}": f"net{number}" for number in range(9)}
    (check,) = [c for c in diagnose(replace(WELL, engine_networks=many)) if c.name == "networks"]
    assert "net0, net1, net2, net3, net4 and 4 more" in check.detail


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Routes(), Level.OK),
        (None, Level.SKIPPED),
        (Unknown("refused"), Level.PROBLEM),
        (Routes(problem="Caddy is away"), Level.PROBLEM),
        (Routes(problem="Caddy is away", away=True), Level.PROBLEM),
        (Routes(stale=True), Level.PROBLEM),
        (Routes(lacking="no plugin has a socket"), Level.PROBLEM),
        (Routes(problems=(RouteProblem(container="web", problem="no port"),)), Level.WARNING),
    ],
)
def test_ingress(report: Routes | Unknown | None, expected: Level) -> None:
    assert level(replace(WELL, ingress=report), "ingress") is expected


def test_certificates_that_are_not_used() -> None:
    bad = Routes(certificate_problems=("a.crt has \x1b[2Jexpired", "b.key is missing"))
    (check,) = [c for c in diagnose(replace(WELL, ingress=bad)) if c.name == "certificates"]
    assert check.level is Level.WARNING
    assert check.detail == "a.crt has \\x1b[2Jexpired\nb.key is missing"
    assert level(replace(WELL, ingress=bad), "ingress") is Level.OK


def test_a_plugin_that_is_not_ready_or_reports() -> None:
    waiting = replace(WELL, status=msgspec.convert({**STATUS, "ready": False, "problems": ["a\nb"]}, Status))
    assert level(waiting, "reconciled") is Level.PROBLEM
    assert level(waiting, "plugin's report") is Level.PROBLEM
