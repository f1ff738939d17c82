"""Histograms that cost a list increment an observation; a scrape takes a snapshot of them."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct


class HistogramSnapshot(Struct, frozen=True):
    """A histogram at one moment.

    bounds: upper ends of the buckets, included. counts: observations in each, and one more beyond the last bound.
    total: sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)

    @property
    def cumulative(self) -> tuple[int, ...]:
        """Observations up to each bound, then all."""
        return tuple(itertools.accumulate(self.counts))


class Histogram:
    """Counts of observations by bucket.

    Args:
        bounds: upper ends of the buckets, included, ascending; what is larger than the last goes into one more bucket.
            Raises ValueError where they do not ascend, or there are none.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        if not self._bounds or any(low >= high for low, high in itertools.pairwise(self._bounds)):
            raise ValueError(f"the bounds of a histogram must ascend, but are {self._bounds}")
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> HistogramSnapshot:
        """Copy what has been counted so far."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)
