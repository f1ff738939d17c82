"""Searches for thresholds, with an optimizer that asks for given points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts, replay
from pipesd_agent.tuning.search import ASKS, GRID, Point, SearchTask, search, to_pair, to_point

TEXT = tuple(Judged(0.95 if i % 7 else 0.4, right=i % 7 != 0, discarded_confidences=(0.5, 0.3)) for i in range(300))
COSTS = PipelineCosts(0.03, 0.02, 0.01)


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[Point, float]] = []

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        self.told += zip(points, values, strict=True)

    def ask(self) -> Point:
        return (0.1 * (len(self.told) - len(GRID)), 0.7)


@given(st.floats(0, 1), st.floats(0, 1))
def test_points_and_pairs(x: float, y: float) -> None:
    pair = to_pair((x, y))
    assert 0 < pair.r1 < 1
    assert pair.r1 <= pair.r2 * (1 + 1e-12)
    assert to_point(pair) == pytest.approx((x, y), abs=1e-6)


def test_any_pair_has_a_point() -> None:
    for pair in (Pair(0.0, 0.0), Pair(1.0, 1.0), Pair(0.0, 1.0), Pair(1.0, 0.0), Pair(0.1, 0.2)):
        x, y = to_point(pair)
        assert 0 <= x <= 1
        assert 0 <= y <= 1
    nearly = to_pair(to_point(Pair(0.1, 0.2)))
    assert (nearly.r1, nearly.r2) == pytest.approx((0.1, 0.2))


def test_a_search_tells_of_the_best_and_of_what_it_was_asked_about() -> None:
    mine, optimizer = Pair(0.01, 0.02), Listener()
    done = search(SearchTask(TEXT, COSTS, 16, "planned", 0.0, (mine,), {}, 1), optimizer)
    assert mine in done.replayed
    assert len(optimizer.told) == 1 + len(GRID) + ASKS - 1  # what the last ask led to needs no telling
    mean = {pair: sum(each) / len(each) for pair, each in done.replayed.items()}
    assert min(mean.values()) <= min(replay(TEXT, pair, COSTS, 16).per_token(0.0) for pair in GRID) * 1.02
    assert len({len(each) for each in done.replayed.values()}) == 1


def test_what_was_measured_counts() -> None:
    plain = search(SearchTask(TEXT, COSTS, 16, "planned", 0.0, (GRID[0],), {}, 1), Listener())
    best = min(plain.replayed, key=lambda pair: sum(plain.replayed[pair]))
    listener = Listener()
    search(SearchTask(TEXT, COSTS, 16, "planned", 0.0, (best,), {best: math.log(3.0)}, 1), listener)
    worst = max(listener.told, key=lambda one: one[1])
    assert worst[0] == pytest.approx(to_point(best))


def test_a_price_of_verifications_makes_them_rarer() -> None:
    verifications = []
    for verification_cost_s in (0.0, 1.0):
        done = search(SearchTask(TEXT, COSTS, 16, "planned", verification_cost_s, (), {}, 1), Listener())
        best = min(done.replayed, key=lambda pair: sum(done.replayed[pair]))
        verifications.append(replay(TEXT, best, COSTS, 16).verifications)
    assert verifications[1] < verifications[0]
