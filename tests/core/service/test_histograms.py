"""Histograms: what is counted where."""

from __future__ import annotations

import pytest

from pipesd_core.service.histograms import Histogram


def test_observations_are_counted_up_to_the_bound_that_they_do_not_exceed() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0.5, 1, 1.5, 2, 6, 100):
        histogram.observe(value)
    snapshot = histogram.snapshot()
    assert snapshot.counts == (2, 2, 0, 2)
    assert snapshot.cumulative == (2, 4, 4, 6)
    assert (snapshot.count, snapshot.total) == (6, 111.0)


def test_a_snapshot_stays_as_it_was() -> None:
    histogram = Histogram((1,))
    before = histogram.snapshot()
    histogram.observe(0.5)
    assert (before.count, histogram.snapshot().count) == (0, 1)


@pytest.mark.parametrize("bounds", [(), (1, 1), (2, 1)])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        Histogram(bounds)
