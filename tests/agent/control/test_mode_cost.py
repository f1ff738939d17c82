"""Means of noisy measurements."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pipesd_agent.control.mode_cost import RECENT_WINDOWS, WINDOW_TOKENS, TokenCost


def test_nothing_is_known_at_first_and_then_a_mean() -> None:
    cost = TokenCost()
    assert (cost.tokens, cost.mean, cost.error) == (0, 0, 0)
    cost.add(0.3, 3)
    assert cost.tokens == 3
    assert cost.mean == pytest.approx(0.1)
    assert cost.error == pytest.approx(0.01)  # little is taken for a tenth
    assert TokenCost(text_spread=0.5).error == 0


def test_the_error_is_that_of_the_measurements() -> None:
    rng, cost = random.Random(1), TokenCost(text_spread=0.5)
    for _ in range(30):
        cost.add(rng.choice((0.5, 1.5)) * WINDOW_TOKENS, WINDOW_TOKENS)
    assert cost.mean == pytest.approx(1, abs=0.25)
    assert cost.deviation == pytest.approx(0.5, abs=0.05)
    assert cost.error < cost.deviation / 4


def test_a_mean_forgets_what_was_before_conditions_moved() -> None:
    cost = TokenCost()
    steady: Iterator[bool] = (cost.add(0.01, 1) for _ in range(40 * WINDOW_TOKENS))
    assert not any(steady)
    assert sum(cost.add(0.02, 1) for _ in range(8 * WINDOW_TOKENS)) >= 1
    assert cost.mean > 0.018


def test_what_a_text_may_do_is_no_sign_of_moved_conditions() -> None:
    cost = TokenCost(text_spread=0.5)
    assert not any(cost.add(0.01, 1) for _ in range(40 * WINDOW_TOKENS))
    assert not any(cost.add(0.016, 1) for _ in range(RECENT_WINDOWS * WINDOW_TOKENS))
    assert sum(cost.add(0.05, 1) for _ in range(RECENT_WINDOWS * WINDOW_TOKENS)) >= 1
