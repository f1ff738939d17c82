"""Compass search: evaluates points around the best one along the axes, closer where none is better (architecture §6).

The optimizer of a search where scikit-optimize is not installed. It needs nothing, and what it asks depends on nothing
but what it was told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pipesd_agent.tuning.search import Optimizer, Point

STEP: Final = 0.1
"""The first step: half of the distance between the points of the grid that a search begins with."""
DIRECTIONS: Final = ((-1, 0), (0, -1), (1, 0), (0, 1))


class Compass:
    """Minimises over the unit square from the best of the points that it is told of first."""

    def __init__(self) -> None:
        self._best: Point = (0.5, 0.5)
        self._least = math.inf
        self._step = STEP
        self._directions = list(DIRECTIONS)
        self._seen: set[Point] = set()

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        for point, value in zip(points, values, strict=True):
            self._seen.add(point)
            if value < self._least:
                # What was better is likely to go on being so: the same direction first.
                off = [(a > b) - (a < b) for a, b in zip(point, self._best, strict=True)]
                self._directions.sort(key=lambda one: -(one[0] * off[0] + one[1] * off[1]))
                self._best, self._least = point, value

    def ask(self) -> Point:
        while True:
            for direction in self._directions:
                x, y = (min(max(at + self._step * by, 0.0), 1.0) for at, by in zip(self._best, direction, strict=True))
                if (x, y) not in self._seen and (x, y) != self._best:
                    return x, y
            self._step /= 2


def make_compass(_: int) -> Optimizer:
    """A `MakeOptimizer`. Nothing is drawn, so no seed is needed."""
    return Compass()
