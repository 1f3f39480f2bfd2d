"""What a run of faults makes of what it saw: losses in a window, differences of a census, goals, and the document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos import census, disk, firewalls, limits, processes, report, wires
from tests.chaos.__main__ import DOCUMENT, ORDERED
from tests.chaos.fault import FAULTS, PLUGIN_ENDS, TRAFFIC_STOPS, UNNOTICED, Goal
from tests.chaos.inject import Outcome, judge
from tests.chaos.record import Beat, Log, Loss, gaps, loss
from tests.chaos.scene import COLUMNS, STREAMS, Stream

MODULES = (processes, wires, firewalls, limits, disk)


def beat(since: float, to: float, *lost: float, gaps: tuple[tuple[float, float], ...] = ()) -> Beat:
    return Beat(since, to, 10 if to else 0, list(gaps), list(lost), {"no answer": len(lost)} if lost else {})


STEADY = [beat(at / 4, at / 4 + 0.24) for at in range(40, 80)]
"""Answers from 10 to 20."""


def test_steady_answers_are_no_loss() -> None:
    assert loss(STEADY, 11, 12, 19) == Loss(answered=320, why=Counter())


def test_a_silence_is_counted_from_answer_to_answer_and_from_the_faults_end() -> None:
    beats = [*STEADY[:8], beat(14.0, 14.2, 12.5, 13.0, gaps=((11.99, 14.0),)), *STEADY[20:]]
    found = loss(beats, 11.5, 13.5, 19)
    assert (found.lost, found.why) == (2, Counter({"no answer": 2}))
    assert found.gap == pytest.approx(2.01)
    assert found.back == pytest.approx(1.5), "the next beat begins later, and that is a silence, too"


def test_a_silence_over_a_restart_of_the_process_and_one_without_end() -> None:
    assert (11.99, 15.0) in gaps([*STEADY[:8], *STEADY[20:]])
    assert loss(STEADY[:8], 11, 11.5, 19).gap == pytest.approx(19 - 11.99)


@pytest.mark.parametrize(("sent", "lost"), [(10.9, 0), (11.0, 1), (19.0, 1), (19.1, 0)])
def test_what_is_lost_belongs_to_the_window_it_was_sent_in(sent: float, lost: int) -> None:
    assert loss([*STEADY, beat(0, 0, sent)], 11, 12, 19).lost == lost


def test_a_log_is_read_as_far_as_its_lines_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    log = Log(file)
    log.refresh()
    file.write_text('{"from": 1.0, "to": 2.0, "ok": 3, "gaps": [], "lost": [], "why": {}}\n{"from": 3.0')
    log.refresh()
    assert [each.ok for each in log.beats] == [3]
    with file.open("a") as more:
        more.write(', "to": 4.0, "ok": 5, "gaps": [], "lost": [3.5], "why": {"x": 1}}\n')
    log.refresh()
    assert [each.ok for each in log.beats] == [3, 5]
    assert not log.well_since(3.0)
    assert log.well_since(3.6)
    assert not log.well_since(4.0)


def test_a_census_tells_what_is_missing_and_what_is_new() -> None:
    before = {"n1 links": Counter(["lo", "spv", "spv"]), "n1 open files": Counter(["60"])}
    after = {"n1 links": Counter(["lo", "spv", "x"]), "n1 open files": Counter(["70"])}
    assert census.differences(before, before) == []
    assert census.differences(before, after) == ["- n1 links: spv", "+ n1 links: x"]
    leaking = {**before, "n1 open files": Counter(["90"])}
    assert census.differences(before, leaking) == ["+ n1 open files: 90 instead of 60"]


def outcome(**columns: Loss) -> Outcome:
    made = Outcome("nothing", "nothing", "n2", 2, converged=1.0, traffic=0.5)
    made.streams = {column.replace("_", " "): lost for column, lost in columns.items()}
    return made


@pytest.mark.parametrize(
    ("goal", "column", "lost", "missed"),
    [
        (UNNOTICED, "ping_same", Loss(lost=1), True),
        (UNNOTICED, "http_published", Loss(lost=1), True),
        (UNNOTICED, "http_caddy", Loss(lost=1), True),
        (UNNOTICED, "ping_across", Loss(lost=1), True),
        (UNNOTICED, "dns_across", Loss(lost=1), False),
        (PLUGIN_ENDS, "ping_same", Loss(lost=1), True),
        (PLUGIN_ENDS, "ping_across", Loss(lost=90, gap=0.9), False),
        (PLUGIN_ENDS, "ping_across", Loss(lost=120, gap=1.2), True),
        (TRAFFIC_STOPS, "ping_same", Loss(lost=900, gap=9), False),
    ],
)
def test_goals(goal: Goal, column: str, lost: Loss, *, missed: bool) -> None:
    assert bool(judge(outcome(**{column: lost}), goal, {})) == missed


def test_what_does_not_pass_the_node_loses_nothing_and_everything_is_well_soon() -> None:
    losses = {Stream("ping", "across", 3, 1): Loss(lost=4), Stream("ping", "across", 2, 3): Loss(lost=4)}
    assert judge(outcome(), TRAFFIC_STOPS, losses) == ["ping-across-31, which does not pass the node: 4 lost"]
    late = outcome()
    late.converged = 6.0
    assert judge(late, TRAFFIC_STOPS, {}) == ["well again after 6.0 s"]
    assert judge(late, TRAFFIC_STOPS, {}, timed=False) == []
    late.converged, late.left = None, ["+ n1 links: x"]
    assert len(judge(late, TRAFFIC_STOPS, {}, timed=False)) == 2


def test_the_document_has_each_fault_and_keeps_its_head() -> None:
    assert FAULTS == ORDERED
    assert {each.column for each in STREAMS} == set(COLUMNS)
    one = outcome(ping_across=Loss(lost=12, gap=0.8), ping_same=Loss())
    one.misses = ["ping across: 12 lost"]
    text = report.document("# Head\n<!-- found -->\nold", [one], "All well.", "Found today.")
    assert text.startswith("# Head\n<!-- found -->\n")
    assert "old" not in text
    assert "| 0 | 12 / 0.8 s |" in text
    assert "ping across: 12 lost." in text
    assert "<!-- found -->" in DOCUMENT.read_text()
