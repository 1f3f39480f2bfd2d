"""Under which key a node is a peer, while it changes its key."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from plugin.store.mesh import Choice
from plugin.tunnel.handover import LINGER, STUCK, SWITCH, Handover
from plugin.wireguard.model import Observed, PeerState
from stackpad import records

START = 1_000_000.0
OLD, NEW, NEWER = "old", "new", "newer"


@dataclass
class Story:
    """One other node, whose announced keys and whose handshakes change over time."""

    handover: Handover = field(default_factory=Handover)
    now: float = START
    heard: dict[str, float] = field(default_factory=dict)

    def see(self, *keys: str, after: float = 0.0) -> Choice:
        self.now += after
        node = records.Node(owner="n", name="n", public_keys=keys)
        observed = Observed(peers={key: PeerState(last_handshake=when) for key, when in self.heard.items()})
        return self.handover.choose([node], observed, self.now)["n"]


@pytest.fixture
def story() -> Story:
    """A node under its old key, with a session."""
    made = Story(heard={OLD: START})
    assert made.see(OLD) == Choice(OLD)
    assert not made.handover.due
    return made


def test_the_ranges_move_when_nothing_is_on_its_way_any_more(story: Story) -> None:
    assert story.see(OLD, NEW, after=1) == Choice(OLD)
    assert story.see(NEW, after=3) == Choice(OLD)
    assert story.handover.due == pytest.approx(story.now + LINGER)
    assert story.see(NEW, after=LINGER / 2) == Choice(OLD)
    assert story.see(NEW, after=LINGER / 2 + 0.01) == Choice(NEW, former=OLD, leaving=OLD)
    assert story.handover.due == pytest.approx(story.now + LINGER)
    assert story.see(NEW, after=LINGER / 2) == Choice(NEW, former=OLD, leaving=OLD)
    assert story.see(NEW, after=LINGER / 2 + 0.01) == Choice(NEW, former=OLD)
    assert not story.handover.due
    assert SWITCH < LINGER


def test_a_change_that_was_not_announced_is_followed_as_well(story: Story) -> None:
    assert story.see(NEW, after=1) == Choice(OLD)
    assert story.see(NEW, after=LINGER) == Choice(NEW, former=OLD, leaving=OLD)


def test_where_there_is_no_session_nothing_is_waited_for(story: Story) -> None:
    story.heard.clear()
    assert story.see(NEW, after=1) == Choice(NEW, former=OLD)


def test_a_key_that_is_not_taken_up_is_tried_and_taken_when_heard(story: Story) -> None:
    assert story.see(OLD, NEW) == Choice(OLD)
    assert story.handover.due == pytest.approx(story.now + STUCK)
    assert story.see(OLD, NEW, after=STUCK) == Choice(OLD, standby=NEW)
    story.heard[NEW] = story.now + 1
    assert story.see(OLD, NEW, after=1) == Choice(NEW, former=OLD, leaving=OLD)
    assert story.see(OLD, NEW, after=60) == Choice(NEW, former=OLD), "it stays"
    assert story.see(NEW, after=60) == Choice(NEW, former=OLD)
    assert not story.handover.due


def test_an_announcement_that_is_taken_back_leaves_the_old_key(story: Story) -> None:
    story.see(OLD, NEW)
    assert story.see(OLD, NEW, after=STUCK).standby == NEW
    assert story.see(OLD, after=1) == Choice(OLD)


def test_one_change_after_the_other(story: Story) -> None:
    for key in (NEW, NEWER):
        before = story.see(key).key
        story.heard[key] = story.now
        assert story.see(key, after=LINGER + 0.01) == Choice(key, former=before, leaving=before)


def test_who_has_just_begun_takes_what_the_record_says_first() -> None:
    assert Story().see(NEW) == Choice(NEW)
    assert Story().see(OLD, NEW) == Choice(OLD)


def test_a_node_without_keys_is_none_and_one_that_is_gone_is_forgotten() -> None:
    handover = Handover()
    assert not handover.choose([records.Node(owner="n", name="n", public_keys=())], None, START)
    assert handover.choose([records.Node(owner="n", name="n", public_keys=(OLD,))], None, START)
    assert not handover.choose([], None, START)
    back = records.Node(owner="n", name="n", public_keys=(NEW,))
    assert handover.choose([back], None, START) == {"n": Choice(NEW)}


VICTIM, MEMBER, THIRD = "victim", "member", "third"


def says(owner: str, *keys: str) -> records.Node:
    return records.Node(owner=owner, name=f"name-of-{owner}", public_keys=keys)


def sessions(*keys: str) -> Observed:
    return Observed(peers={key: PeerState(last_handshake=START + 60) for key in keys})


@pytest.mark.parametrize("keys", [("v",), ("v", "m"), ("m", "v"), ("v2", "m"), ("m", "v2")])
@pytest.mark.parametrize("last", [True, False], ids=["written last", "written first"])
def test_a_key_stays_with_the_node_that_had_it(keys: tuple[str, ...], last: bool) -> None:
    """In a member's record it is nobody's, in whatever place, and however long; also one that is only announced."""
    handover = Handover()
    before = handover.choose([says(VICTIM, "v", "v2"), says(MEMBER, "m")], sessions("v", "m"), START)
    assert before == {VICTIM: Choice("v"), MEMBER: Choice("m")}
    both = [says(VICTIM, "v", "v2"), says(MEMBER, *keys)]
    for after in (0.0, LINGER, STUCK + LINGER, 60.0):
        chosen = handover.choose(both if last else both[::-1], sessions("v", "m"), START + after)
        assert chosen[VICTIM].key == "v"
        assert chosen[MEMBER] == Choice("m" if "m" in keys else "")
        (problem,) = handover.problems
        assert problem.startswith("node name-of-member says that WireGuard key v")
        assert "is that of node name-of-victim" in problem


def test_a_key_that_is_just_given_up_is_not_another_ones_either() -> None:
    """The peer that goes for what is still under way would be in the member's place, or the other way round."""
    handover, now = Handover(), START
    handover.choose([says(VICTIM, "v"), says(MEMBER, "m")], sessions("v", "m"), now)
    handover.choose([says(VICTIM, "v2"), says(MEMBER, "m")], sessions("v", "m"), now)
    for _ in range(3):
        now += LINGER + 0.01
        chosen = handover.choose([says(VICTIM, "v2"), says(MEMBER, "v")], sessions("v", "m"), now)
        assert chosen[VICTIM].key == "v2"
        assert chosen[MEMBER] == Choice("")


def test_where_nobody_was_first_a_key_is_nobodys_but_the_stores_nodes() -> None:
    """As after a start, when all records are there at once."""
    handover = Handover()
    both = [says(VICTIM, "v"), says(MEMBER, "v"), says(THIRD, "t")]
    assert handover.choose(both, None, START) == {VICTIM: Choice(""), MEMBER: Choice(""), THIRD: Choice("t")}
    assert len(handover.problems) == 2
    assert handover.choose([both[0], both[2]], None, START)[VICTIM] == Choice("v"), "the other one was removed"
    assert not handover.problems
    assert Handover().choose(both, None, START, first=("n", VICTIM))[VICTIM] == Choice("v")


def test_who_joins_again_with_its_key_has_it_when_its_old_place_is_gone() -> None:
    handover = Handover()
    handover.choose([says("old", "k")], None, START)
    assert handover.choose([says("new", "k")], None, START) == {"new": Choice("k")}
    assert not handover.problems
