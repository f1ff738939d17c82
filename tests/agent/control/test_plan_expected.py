"""The schedule by expectation against all schedules there are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipesd_agent.control.plan_dp import makespan, optimal_plan
from pipesd_agent.control.plan_expected import Timing

FloatArray = NDArray[np.float64]


def expected(cuts: NDArray[np.bool_], chances: FloatArray, costs: tuple[int, int, int], backlog: float) -> FloatArray:
    """[schedules]: µs from a round's last token until it has arrived. cuts: [schedules, n], sent after this one?"""
    alpha, beta, gamma = costs
    total = np.zeros(len(cuts))
    free_at = np.full(len(cuts), backlog)
    sent = np.zeros(len(cuts))
    for drafted in range(1, len(chances)):
        arrives = np.maximum(free_at, gamma * drafted) + alpha + beta * (drafted - sent)
        total += chances[drafted] * (arrives - gamma * drafted)
        cut = cuts[:, drafted - 1]
        free_at = np.where(cut, arrives, free_at)
        sent = np.where(cut, drafted, sent)
    return total


def everything(n: int) -> NDArray[np.bool_]:
    cuts: NDArray[np.bool_] = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1 == 1
    return cuts


def follows(plan: tuple[int, ...]) -> NDArray[np.bool_]:
    cuts = np.zeros((1, sum(plan)), np.bool_)
    cuts[0, np.cumsum(plan) - 1] = True
    return cuts


def some_chances(rng: np.random.Generator, n: int) -> FloatArray:
    chances = np.zeros(n + 1)
    chances[1:] = rng.random(n) ** rng.choice([1, 4]) if rng.random() < 0.5 else rng.uniform(0.3, 1) ** np.arange(n)
    chances /= chances.sum()
    return chances


def test_no_schedule_is_much_better() -> None:
    """Mostly none is at all; where one is, by less than the distance of two levels of the backlog."""
    rng = np.random.default_rng(1)
    over = []
    for _ in range(400):
        n = int(rng.integers(1, 11))
        chances = some_chances(rng, n)
        gamma = int(rng.integers(1_000, 100_000))
        alpha, beta = (int(gamma * 10 ** rng.uniform(-2, high)) for high in (1, 0.7))
        backlog = float(rng.choice([0.0, gamma * rng.uniform(0, 5)]))
        costs = alpha, beta, gamma
        plan = Timing(chances, *costs).plan(backlog)
        assert sum(plan) == n
        best = expected(everything(n), chances, costs, backlog).min()
        over.append(expected(follows(plan), chances, costs, backlog)[0] / best - 1)
        assert over[-1] * best < (2 * (alpha + beta * n) + gamma) / 63
    assert min(over) > -1e-9
    assert np.mean(over) < 0.001
    assert np.mean(np.array(over) < 1e-9) > 0.9
    assert max(over) < 0.05


def test_where_the_end_is_known_it_is_the_paper_s_makespan() -> None:
    """Rounds of exactly 8 tokens: the table's plan costs what the DP's does."""
    chances = np.eye(9)[8]
    for costs in ((25_000, 116_000, 36_000), (53_600, 2_400, 36_000), (25_000, 29_000, 36_000)):
        plan = Timing(chances, *costs).plan()
        assert makespan(plan, *costs) == pytest.approx(makespan(optimal_plan(8, *costs), *costs), rel=0.02)


def test_a_cheap_link_takes_each_token_at_once() -> None:
    timing = Timing(np.full(17, 1 / 17), 27, 1, 36_000)
    assert timing.plan() == (1,) * 16
    assert timing.due(40, 3, 35_000)


def test_a_busy_link_is_left_alone() -> None:
    timing = Timing(np.array([0, 0.5, 0.5]), 53_600, 2_400, 36_000)
    assert not timing.due(0, 1, 0.0)
    assert not timing.due(0, 1, 1e9)


def test_it_waits_where_the_end_is_near_and_sends_where_it_is_far() -> None:
    costs = 53_600, 2_400, 36_000
    near, far = (Timing(np.eye(13)[end], *costs) for end in (5, 12))
    assert not near.due(0, 4, 0.0)
    assert far.due(0, 4, 0.0)


def test_longer_rounds_begin_anew() -> None:
    timing = Timing(np.eye(13)[12], 53_600, 2_400, 36_000)
    for backlog in (0.0, 50_000.0):
        assert timing.due(14, 3, backlog) == timing.due(2, 3, backlog)
    timing.due(0, 500, 0.0)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha -1"):
        Timing(np.array([0, 1.0]), -1, 0, 0)
    with pytest.raises(ValueError, match="at least"):
        Timing(np.array([1.0]), 1, 1, 1)
