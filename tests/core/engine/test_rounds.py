from __future__ import annotations

from typing import Any

import pytest

from pipesd_core.engine.rounds import Decided, Round, fault


def test_a_round_without_drafts_is_one_token() -> None:
    round_ = Round()
    assert not round_.over
    assert round_.take([7]) == [Decided((7,), 0, 0)]
    assert round_.over


def test_a_round_ends_with_the_token_after_its_last_draft() -> None:
    round_ = Round([1, 2])
    assert round_.take([1, 2]) == []
    assert not round_.over
    assert round_.left == ()
    assert round_.take([3]) == [Decided((1, 2, 3), 2, 2)]
    assert round_.over


def test_a_round_ends_with_the_first_wrong_draft() -> None:
    round_ = Round([1, 2, 3])
    assert round_.take([1, 9]) == [Decided((1, 9), 3, 1)]
    assert round_.over
    assert round_.left == ()


def test_what_an_engine_could_not_take_is_left_over() -> None:
    round_ = Round([1, 2, 3, 4])
    assert round_.take([1, 2]) == []
    assert round_.left == (3, 4)
    assert round_.steps_left == 1
    assert round_.take([3, 9]) == [Decided((1, 2, 3, 9), 4, 3)]
    assert round_.steps_left == 0


def test_steps_ahead_follow_what_decides_the_drafts_one_token_each() -> None:
    round_ = Round([1], ahead=2)
    assert round_.take([1, 5]) == [Decided((1, 5), 1, 1)]
    assert round_.left == (), "1 again is no draft"
    assert round_.take([1]) == [Decided((1,), 0, 0)]
    assert not round_.over
    assert round_.take([1]) == [Decided((1,), 0, 0)]
    assert round_.over


def test_however_tokens_arrive_the_steps_are_the_same() -> None:
    whole = Round([1, 2, 3], ahead=3).take([1, 2, 9, 4, 5, 6])
    assert len(whole) == 4
    one_by_one = Round([1, 2, 3], ahead=3)
    assert [step for token in (1, 2, 9, 4, 5, 6) for step in one_by_one.take([token])] == whole


def test_an_answer_that_ends_amid_its_drafts() -> None:
    round_ = Round([1, 2, 3])
    assert round_.take([1, 2]) == []
    assert round_.cut() == [Decided((1, 2), 3, 2)]
    round_ = Round()
    assert round_.take([1]) != []
    assert round_.cut() == []


@pytest.mark.parametrize("drafts", [[], [0, 4095], (1, 2)])
def test_good_drafts(drafts: Any) -> None:
    assert fault(drafts, 2, 4096) is None


@pytest.mark.parametrize("drafts", [[-1], [4096], [1, 2, 3], None, "12", [1.0], [True], ["1"], [2**70]])
def test_drafts_that_would_harm_the_engine(drafts: Any) -> None:
    assert fault(drafts, 2, 4096)
