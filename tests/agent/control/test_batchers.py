"""When drafts leave the device."""

from __future__ import annotations

from pipesd_agent.control.batchers import Immediate, Planned, Single, Timed
from pipesd_agent.session.policies import Batcher


def test_immediate_and_single() -> None:
    for batcher, due in ((Immediate(), True), (Single(), False)):
        assert [batcher.due(n, 0.0) for n in (1, 2, 50)] == [due] * 3
        batcher.reset()
        assert batcher.due(1, 0.0) is due


def batches(batcher: Batcher, tokens: int) -> list[int]:
    """Of tokens that are drafted one by one while the link takes everything."""
    sizes, unsent = [], 0
    for _ in range(tokens):
        unsent += 1
        if batcher.due(unsent, 0.0):
            sizes.append(unsent)
            unsent = 0
    return [*sizes, unsent]


def test_a_plan_repeats_until_the_verification() -> None:
    batcher = Planned(lambda: (1, 3, 2))
    assert batches(batcher, 11) == [1, 3, 2, 1, 3, 1]
    batcher.reset()
    assert batches(batcher, 5) == [1, 3, 1]


def test_being_asked_again_changes_nothing() -> None:
    batcher = Planned(lambda: (3, 2))
    assert [batcher.due(n, 0.0) for n in (1, 1, 2, 2, 2, 3)] == [False] * 5 + [True]
    assert [batcher.due(n, 0.0) for n in (1, 1, 2)] == [False, False, True]


def test_cuts_that_the_link_was_too_busy_for_go_in_one_message() -> None:
    batcher = Planned(lambda: (2, 3, 4))
    assert batcher.due(6, 0.0), "cuts after 2 and 5 have passed, and the sixth goes too"
    assert [batcher.due(n, 0.0) for n in (1, 2, 3)] == [False, False, True], "the next is after 9 as before"


def test_a_plan_is_asked_for_at_the_start_of_a_round() -> None:
    plans = iter([(2,), (1,), None])
    batcher = Planned(lambda: next(plans))
    assert batches(batcher, 4) == [2, 2, 0]
    batcher.reset()
    batcher.reset()
    assert batches(batcher, 3) == [1, 1, 1, 0]
    batcher.reset()
    assert batches(batcher, 2) == [1, 1, 0], "without a plan each token goes at once"


def test_a_timed_one_says_how_far_the_round_is() -> None:
    asked: list[tuple[int, int, float]] = []

    def send(sent: int, unsent: int, now: float) -> bool:
        asked.append((sent, unsent, now))
        return unsent >= 2

    batcher = Timed(send)
    assert [batcher.due(1, 0.1), batcher.due(2, 0.2), batcher.due(1, 0.3)] == [False, True, False]
    batcher.reset()
    assert not batcher.due(1, 0.4)
    assert asked == [(0, 1, 0.1), (0, 2, 0.2), (2, 1, 0.3), (0, 1, 0.4)]
