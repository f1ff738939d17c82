from __future__ import annotations

from typing import Any

import pytest

from pipesd_vllm.rounds import Round, fault


def state(round_: Round) -> tuple[bool, int]:
    return round_.over, round_.accepted


def test_a_round_without_drafts_is_one_token() -> None:
    round_ = Round()
    assert state(round_) == (False, 0)
    round_.take([7])
    assert state(round_) == (True, 0)


def test_a_round_ends_with_the_token_after_its_last_draft() -> None:
    round_ = Round([1, 2])
    round_.take([1, 2])
    assert state(round_) == (False, 2)
    assert round_.left == ()
    round_.take([3])
    assert state(round_) == (True, 2)


def test_a_round_ends_with_the_first_wrong_draft() -> None:
    round_ = Round([1, 2, 3])
    round_.take([1, 9])
    assert state(round_) == (True, 1)


def test_what_an_engine_could_not_take_is_left_over() -> None:
    round_ = Round([1, 2, 3, 4])
    round_.take([1, 2])
    assert not round_.over
    assert round_.left == (3, 4)


@pytest.mark.parametrize("drafts", [[], [0, 4095], (1, 2)])
def test_good_drafts(drafts: Any) -> None:
    assert fault(drafts, 2, 4096) is None


@pytest.mark.parametrize("drafts", [[-1], [4096], [1, 2, 3], None, "12", [1.0], [True], ["1"], [2**70]])
def test_drafts_that_would_harm_the_engine(drafts: Any) -> None:
    assert fault(drafts, 2, 4096)
