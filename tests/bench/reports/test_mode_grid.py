"""The automatic mode on a handful of points of its grid: never more than 5 % above the better side."""

from __future__ import annotations

import pytest

from bench.proving.reports.mode_grid import GRID, Place, play, rows, section
from bench.proving.simulator.scenario import KBIT, MBIT

NEAR = 1.05
POINTS = (
    Place(0.004, 0.05, 20 * MBIT, 0.12, "high"),
    Place(0.02, 0.005, 20 * MBIT, 0.03, "low"),
    Place(0.15, 0.05, 20 * MBIT, 0.006, "high"),
    Place(0.02, 0.3, 20 * KBIT, 0.12, "low"),
)


@pytest.mark.parametrize("place", POINTS, ids=str)
def test_auto_is_near_the_better_side(place: Place) -> None:
    found = play(place, answers=12)
    best = min(found.cloud_ms, found.collaborative_ms)
    assert found.auto_ms < 1.1 * best  # short: what learning costs is a larger share of it
    assert found.auto_settled_ms < NEAR * min(found.cloud_settled_ms, found.collaborative_settled_ms)


def test_offload_drafts_within_its_bound() -> None:
    near = Place(0.02, 0.05, 20 * MBIT, 0.03, "high")  # drafting takes a fifth more
    found, fast = play(near, "offload", answers=8), play(near, answers=8)
    assert found.auto_forwards < 0.3 < fast.auto_forwards
    assert found.auto_ms < 2 * found.cloud_ms
    far = Place(0.02, 0.3, 20 * MBIT, 0.006, "low")
    assert play(far, "offload", answers=8).auto_settled_ms < 2 * play(far, answers=8).cloud_settled_ms


def test_the_grid_is_as_large_as_it_should_be_and_is_reported() -> None:
    assert len(set(GRID)) >= 100
    some = list(rows(POINTS[:1]))
    assert "cloud-only is the better side at 0, collaborative at 1;" in section(some)
