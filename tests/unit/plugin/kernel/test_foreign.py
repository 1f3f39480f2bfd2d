"""Where our accepts stand in a chain that belongs to somebody else, by tables."""

from __future__ import annotations

import pytest

from plugin.kernel.foreign import _target, mend

IN = "-A DOCKER-USER -i sp-+ -m comment --comment stackpad -j ACCEPT"
OUT = "-A DOCKER-USER -o sp-+ -m comment --comment stackpad -j ACCEPT"
RETURN = "-A DOCKER-USER -j RETURN"
OPERATOR = '-A DOCKER-USER -s 203.0.113.0/24 -m comment --comment "keep \\"them\\" out" -j DROP'
LATER = "-A DOCKER-USER -d 203.0.113.9/32 -j ACCEPT"
NEW = "-N DOCKER-USER"


def played(listed: list[str], script: str) -> list[str]:
    """What ``iptables-restore --noflush`` would leave of the rules."""
    rules = [line for line in listed if line.startswith("-A")]
    for line in script.splitlines():
        verb, _, rest = line.partition(" ")
        if verb == "-D":
            rules.remove(f"-A {rest}")
        elif verb == "-I":
            chain, position, rule = rest.split(" ", 2)
            rules.insert(int(position) - 1, f"-A {chain} {rule}")
        else:
            assert line in {"*filter", "COMMIT"}
    return rules


@pytest.mark.parametrize(
    "listed",
    [
        [NEW, IN, OUT, RETURN],
        [NEW, IN, OUT],
        [NEW, OPERATOR, IN, OUT, RETURN],
        [NEW, OPERATOR, IN, OUT, RETURN, LATER],
        [NEW, IN.replace("stackpad", '"stackpad"'), OUT, RETURN],
    ],
)
def test_a_chain_that_is_right_is_left_alone(listed: list[str]) -> None:
    assert mend("DOCKER-USER", listed) == ""


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([NEW], [IN, OUT]),
        ([NEW, RETURN], [IN, OUT, RETURN]),
        ([NEW, OPERATOR], [OPERATOR, IN, OUT]),
        ([NEW, OPERATOR, RETURN], [OPERATOR, IN, OUT, RETURN]),
        ([NEW, RETURN, LATER], [IN, OUT, RETURN, LATER]),
        ([NEW, IN, RETURN], [IN, OUT, RETURN]),
        ([NEW, OUT, IN, RETURN], [IN, OUT, RETURN]),
        ([NEW, IN, OUT, IN, OUT, RETURN], [IN, OUT, RETURN]),
        ([NEW, RETURN, IN, OUT], [IN, OUT, RETURN]),
        ([NEW, IN, OUT, OPERATOR, RETURN], [OPERATOR, IN, OUT, RETURN]),
    ],
)
def test_a_chain_that_is_wrong_is_put_right(listed: list[str], expected: list[str]) -> None:
    script = mend("DOCKER-USER", listed)
    assert played(listed, script) == expected
    assert mend("DOCKER-USER", expected) == ""


@pytest.mark.parametrize(
    "operators",
    [
        "-A DOCKER-USER -i sp-+ -j DROP",
        '-A DOCKER-USER -i sp-+ -m comment --comment "stackpad: not this one" -j DROP',
        '-A DOCKER-USER -i sp-+ -m comment --comment "not stackpad" -j DROP',
        "-A DOCKER-USER -i sp-+ -m comment --comment stackpad2 -j DROP",
        '-A DOCKER-USER -i sp-+ -m comment --comment "no --comment stackpad" -j DROP',
    ],
)
def test_what_an_operator_says_of_our_bridges_is_not_ours(operators: str) -> None:
    listed = [NEW, operators, RETURN]
    assert played(listed, mend("DOCKER-USER", listed)) == [operators, IN, OUT, RETURN]


def test_another_chain_of_a_similar_name_is_another() -> None:
    assert mend("FORWARD", ["-P FORWARD DROP", "-A FORWARD-X -j DROP"]).count("-I FORWARD ") == 2


@pytest.mark.parametrize(
    ("docker_user", "forward", "target"),
    [
        ([NEW], ["-P FORWARD DROP"], "DOCKER-USER"),
        ([NEW], ["-P FORWARD ACCEPT"], "DOCKER-USER"),
        ([], ["-P FORWARD DROP"], "FORWARD"),
        ([], ["-P FORWARD ACCEPT"], None),
        ([], [], None),
    ],
)
def test_where_they_go(docker_user: list[str], forward: list[str], target: str | None) -> None:
    assert _target(docker_user, forward) == target
