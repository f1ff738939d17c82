"""What methods can trade over their thresholds."""

from __future__ import annotations

import pytest
from made import scripted

from bench.proving.methods.frontier import Spot, families, frontier, spots
from bench.proving.simulator.scenario import LAPTOP


def test_a_frontier_is_what_no_other_spot_beats() -> None:
    spots = [Spot(0.3, 0.3, 30), Spot(0.1, 0.4, 50), Spot(0.2, 0.2, 60), Spot(0.4, 0.5, 20)]
    assert frontier(spots) == [(0.1, 50), (0.3, 30), (0.4, 20)]
    assert frontier(spots, by_forwards=True) == [(0.2, 60), (0.3, 30), (0.5, 20)]


def test_every_family_is_played() -> None:
    script = scripted("....x.....x.....")
    for name, settings in families().items():
        found = list(spots(settings[:2], [script, script], LAPTOP))
        assert len(found) == 2, name
        assert all(0 < spot.navs <= spot.forwards <= 1 and spot.tpt_ms > 0 for spot in found), name
        if name != "ours":
            assert all(spot.navs == pytest.approx(spot.forwards) for spot in found), name
