"""What the gateway is told of free runs, and where the drafter rests."""

from __future__ import annotations

import pytest

from pipesd_agent.session.state.free_run import NOT_RUNNING, STOP, FreeRun, RunState
from pipesd_core.protocol.messages import FOREVER


@pytest.fixture
def run() -> FreeRun:
    run = FreeRun()
    run.begin(5, 3)
    return run


def test_drafts_end_the_run_that_a_session_starts_in(run: FreeRun) -> None:
    assert (run.state, run.until) == (RunState.START, 7)
    run.drafts_sent()
    assert (run.state, run.until) == (RunState.NONE, NOT_RUNNING)


def test_without_a_limit_it_goes_on_for_ever(run: FreeRun) -> None:
    run.begin(5, FOREVER)
    assert run.until == FOREVER


def test_a_pending_run_is_told_once_and_only_where_it_goes_further(run: FreeRun) -> None:
    run.pending = 9
    assert run.next_run(9) == 9
    assert (run.state, run.until) == (RunState.EDGE, 9)
    assert run.next_run(9) is None
    run.pending = 9
    assert run.next_run(10) is None
    run.drafts_sent()
    assert run.state is RunState.EDGE, "the gateway ends it by itself"


def test_a_rest_pauses_drafting_until_shortly_before_its_end(run: FreeRun) -> None:
    run.start_rest(5, 10, 5, lead=3)
    assert (run.resting, run.next_run(5)) == (True, 14)
    assert [run.wakes(committed) for committed in (5, 11, 12)] == [False, False, True]
    run.wake(12)
    assert (run.resting, run.next_stop()) == (False, None), "the run ends with the rest"


def test_a_rest_that_is_taken_back_ends_at_once_and_its_run_with_the_first_draft(run: FreeRun) -> None:
    run.start_rest(5, FOREVER, 5, lead=3)
    assert run.next_run(5) == FOREVER
    run.end_rest()
    assert run.wakes(5)
    run.wake(5)
    assert run.next_stop() == STOP
    assert (run.state, run.next_stop()) == (RunState.STOPPED, None)


def test_a_rest_that_was_never_told_is_forgotten_with_its_run(run: FreeRun) -> None:
    run.start_rest(5, FOREVER, 5, lead=0)
    run.end_rest()
    run.wake(5)
    assert run.next_run(5) is None
    assert run.next_stop() is None, "the first run ends with the first draft"


def test_a_short_rest_behind_drafts_pauses_nothing_yet(run: FreeRun) -> None:
    run.start_rest(9, 2, 5, lead=6)
    assert (run.after_drafts, run.resting, run.pending) == (True, False, 10)


def test_after_a_lost_link_what_may_be_lost_is_told_again(run: FreeRun) -> None:
    run.link_resumed(5)
    assert run.pending is None, "the run at the start is in the request"
    run.pending = 20
    run.next_run(5)
    run.link_resumed(6)
    assert run.next_run(6) == 20
    run.link_resumed(21)
    assert run.next_run(21) is None
    run.stop_first = True
    run.next_stop()
    run.link_resumed(21)
    assert run.next_stop() == STOP


@pytest.mark.parametrize(
    ("drafting", "resting", "pending"), [(False, False, FOREVER), (True, False, None), (True, True, 14)]
)
def test_another_gateway_is_told_what_is_in_force(
    run: FreeRun, drafting: bool, resting: bool, pending: int | None
) -> None:
    if resting:
        run.start_rest(5, 10, 5, lead=0)
        run.next_run(5)
    run.handed_off(5, 3, drafting=drafting)
    assert (run.state, run.until, run.pending) == (RunState.START, 7, pending)
