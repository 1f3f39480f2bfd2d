"""The words of ``python -m tests.testbed``, without making anything."""

from __future__ import annotations

import pytest

from tests.testbed.__main__ import command_of, parser


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["up"], "default"),
        (["--name", "a", "up"], "a"),
        (["up", "--name", "a"], "a"),
        (["--name", "a", "up", "--name", "b"], "b"),
        (["--name", "a", "down"], "a"),
        (["down", "--name", "a"], "a"),
        (["exec", "--name", "a", "n1", "--", "true"], "a"),
    ],
)
def test_the_name_stands_before_or_after_the_command(words: list[str], name: str) -> None:
    assert parser().parse_args(words).name == name


def test_what_up_does_unless_told() -> None:
    options = parser().parse_args(["up"])
    assert (options.nodes, options.engine) == (1, "debian12")
    assert (options.no_plugin, options.no_ingress, options.keep) == (False, False, False)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["n1"], []),
        (["n1", "ip", "addr"], ["ip", "addr"]),
        (["n1", "--", "ip", "-br", "addr"], ["ip", "-br", "addr"]),
        (["n1", "--", "sh", "-c", "echo $1", "--", "x"], ["sh", "-c", "echo $1", "--", "x"]),
        (["n1", "--", "curl", "--name", "x"], ["curl", "--name", "x"]),
    ],
)
def test_a_command_is_passed_on_as_it_was_said(words: list[str], command: list[str]) -> None:
    options = parser().parse_args(["exec", *words])
    assert (options.node, command_of(options), options.name) == ("n1", command, "default")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([])
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "down", "status", "exec", "images"])
def test_help_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser().parse_args([command, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")
