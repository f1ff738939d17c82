"""Compass search: looks around the best point along the axes, and closer where nothing is better (architecture §6).

What a study runs where scikit-optimize is not installed. It needs nothing, and its answers depend on nothing but what
it was told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipesd_agent.tuning.search import Optimizer, Point

STEP: Final = 0.1
"""The first one: half of the distance between the points of the grid that a study begins with."""
WAYS: Final = ((-1, 0), (0, -1), (1, 0), (0, 1))


class Compass:
    """Minimises over the unit square from the best of the points that it is told of first."""

    def __init__(self) -> None:
        self._best: Point = (0.5, 0.5)
        self._least = math.inf
        self._step = STEP
        self._ways = list(WAYS)
        self._seen: set[Point] = set()

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        for point, value in zip(points, values, strict=True):
            self._seen.add(point)
            if value < self._least:
                # What was better is likely to go on being so: the same way first.
                off = [(a > b) - (a < b) for a, b in zip(point, self._best, strict=True)]
                self._ways.sort(key=lambda way: -(way[0] * off[0] + way[1] * off[1]))
                self._best, self._least = point, value

    def ask(self) -> Point:
        while True:
            for way in self._ways:
                x, y = (min(max(at + self._step * by, 0.0), 1.0) for at, by in zip(self._best, way, strict=True))
                if (x, y) not in self._seen and (x, y) != self._best:
                    return x, y
            self._step /= 2


def make_compass(_: int) -> Optimizer:
    """A `MakeOptimizer`. Nothing is drawn, so no seed is needed."""
    return Compass()
