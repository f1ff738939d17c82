"""Means of noisy measurements."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pipesd_agent.control.mode_cost import RECENT, WINDOW, Cost


def test_nothing_is_known_at_first_and_then_a_mean() -> None:
    cost = Cost()
    assert (cost.known, cost.mean, cost.error) == (0, 0, 0)
    cost.add(0.3, 3)
    assert cost.known == 3
    assert cost.mean == pytest.approx(0.1)
    assert cost.error == pytest.approx(0.01)  # little is taken for a tenth
    assert Cost(spread=0.5).error == 0


def test_the_error_is_that_of_the_measurements() -> None:
    rng, cost = random.Random(1), Cost(spread=0.5)
    for _ in range(30):
        cost.add(rng.choice((0.5, 1.5)) * WINDOW, WINDOW)
    assert cost.mean == pytest.approx(1, abs=0.25)
    assert cost.deviation == pytest.approx(0.5, abs=0.05)
    assert cost.error < cost.deviation / 4


def test_a_mean_forgets_what_was_before_conditions_moved() -> None:
    cost = Cost()
    steady: Iterator[bool] = (cost.add(0.01, 1) for _ in range(40 * WINDOW))
    assert not any(steady)
    assert sum(cost.add(0.02, 1) for _ in range(8 * WINDOW)) >= 1
    assert cost.mean > 0.018


def test_what_a_text_may_do_is_no_sign_of_moved_conditions() -> None:
    cost = Cost(spread=0.5)
    assert not any(cost.add(0.01, 1) for _ in range(40 * WINDOW))
    assert not any(cost.add(0.016, 1) for _ in range(RECENT * WINDOW))
    assert sum(cost.add(0.05, 1) for _ in range(RECENT * WINDOW)) >= 1
