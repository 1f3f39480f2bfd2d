"""Under which key a node is a peer, while it changes its key."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from plugin.handover import LINGER, STUCK, SWITCH, Handover
from plugin.mesh import Choice
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
