"""The search that tunes every method."""

from __future__ import annotations

import pytest

from bench.proving.methods.search import Point, search

AXIS = tuple(range(12))


@pytest.mark.parametrize("least", [(1, 10), (6, 6), (11, 0)])
def test_it_finds_a_valley(least: tuple[int, int]) -> None:
    def cost(point: Point) -> float:
        return sum(abs(int(str(x)) - y) for x, y in zip(point, least, strict=True))

    assert search(cost, (AXIS, AXIS), 60) == (least, 0.0)


@pytest.mark.parametrize("axes", [(AXIS,), (AXIS, AXIS), (AXIS, AXIS, AXIS), ((1,),), ((1, 2), AXIS, (True, False))])
def test_it_never_exceeds_its_trials(axes: tuple[tuple[object, ...], ...]) -> None:
    calls: list[Point] = []

    def cost(point: Point) -> float:
        calls.append(point)
        return -sum(float(str(x)) if not isinstance(x, bool) else x for x in point)

    best, value = search(cost, axes, 16)
    assert len(calls) == len(set(calls)) <= 16
    assert value == min(cost(point) for point in calls[:]) == cost(best)
