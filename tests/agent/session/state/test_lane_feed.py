"""What the drafter's lane is told, and which of its reports count."""

from __future__ import annotations

from pipesd_agent.session.actions import Action, Commit, StartDrafting, StopDrafting
from pipesd_agent.session.state.lane_feed import LaneFeed, LaneState
from pipesd_core.protocol.messages import Opened
from pipesd_core.sampling.params import SamplingParams

PARAMS = SamplingParams(temperature=0.0, seed=1)
OPENED = Opened(3, bytes(16), (1, 2), PARAMS, 20, (0,), "m")


def test_a_lane_is_told_of_everything_once() -> None:
    actions: list[Action] = []
    lane = LaneFeed(actions)
    assert not lane.drafting
    lane.state = LaneState.CLOSED
    lane.untold += [7]
    lane.open(OPENED, [1, 2, 7])
    lane.commit(3, 19)
    lane.untold += [8, 9]
    lane.commit(5, 21)
    lane.close()
    assert actions == [
        StartDrafting((1, 2, 7), PARAMS, frozenset({0})),
        Commit((), 19),
        Commit((8, 9), 21),
        StopDrafting(),
    ]


def test_a_closed_lane_is_told_nothing() -> None:
    actions: list[Action] = []
    lane = LaneFeed(actions)
    lane.state = LaneState.CLOSED
    lane.untold += [7]
    lane.commit(3, 19)
    lane.close()
    assert actions == []
    assert lane.state is LaneState.NONE


def test_reports_of_a_contradicted_path_do_not_count() -> None:
    lane = LaneFeed([])
    assert not lane.is_valid(9), "there is no drafter"
    lane.open(OPENED, [1, 2])
    lane.commit(2, 18)
    assert lane.is_valid(1)
    lane.commit(4, 20)
    lane.contradicted()
    assert not lane.is_valid(1)
    assert lane.is_valid(2)


def test_a_contradiction_that_is_found_late_counts_from_the_commit_that_decided_it() -> None:
    lane = LaneFeed([])
    lane.open(OPENED, [1, 2])
    for base in (2, 4, 9):
        lane.commit(base, 30)
    lane.contradicted_at(3)
    assert [lane.is_valid(commit) for commit in (1, 2, 3)] == [False, True, True]
