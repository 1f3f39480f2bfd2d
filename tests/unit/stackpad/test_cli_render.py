"""Rows and words: pure."""

from __future__ import annotations

import pytest

from stackpad.cli import render
from stackpad.cli.render import Grid
from stackpad.cli.reports import NetworkReport, PortReport


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3_661, "1 h 1 min"),
        (3_601, "1 h"),
        (90_061, "1 d 1 h"),
        (86_400 * 400, "400 d"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert render.duration(seconds) == said


def port(host: int, container: int, **more: str | tuple[str, ...] | None) -> PortReport:
    given = {"addresses": ("10.0.0.2",), "protocol": "tcp", **more}
    return PortReport(host_port=host, container_port=container, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ports", "written"),
    [
        ([port(8080, 80)], ["0.0.0.0:8080->80/tcp"]),
        ([port(8080, 80, addresses=("10.0.0.2", "fd00::2"))], ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"]),
        ([port(8080, 80, host_address="192.0.2.1")], ["192.0.2.1:8080->80/tcp"]),
        ([port(8080, 80, host_address="2001:db8::1")], ["[2001:db8::1]:8080->80/tcp"]),
        ([port(2, 12), port(1, 11), port(3, 13)], ["0.0.0.0:1-3->11-13/tcp"]),
        ([port(1, 11), port(2, 13)], ["0.0.0.0:1->11/tcp", "0.0.0.0:2->13/tcp"]),
        ([port(53, 53, protocol="udp"), port(54, 54)], ["0.0.0.0:54->54/tcp", "0.0.0.0:53->53/udp"]),
    ],
)
def test_published(ports: list[PortReport], written: list[str]) -> None:
    assert render.published(ports) == written


def test_columns_are_aligned_and_cells_may_have_lines() -> None:
    grid = Grid(("A", "LONG"), (("one\ntwo", "x"), ("three", "y")), notes=("note",))
    assert render.text(grid) == "A      LONG\none    x\ntwo\nthree  y\nnote\n"


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert render.clean("a\x1b[31m\r\nb\u202ec é") == "a\\x1b[31m\\r\\nb\\u202ec é"


@pytest.mark.parametrize(
    ("internal", "egress", "said"),
    [(True, False, "internal"), (False, False, "published ports only"), (False, True, "yes")],
)
def test_reach(internal: bool, egress: bool, said: str) -> None:
    assert render.reach(NetworkReport(internal=internal, egress=egress)) == said
