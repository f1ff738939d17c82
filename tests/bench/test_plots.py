"""Figures: they can be drawn, and equal numbers give equal bytes."""

from __future__ import annotations

from pathlib import Path

from made import scripted

from bench.proving import plots
from bench.proving.frontier import Spot, frontier
from bench.proving.report import FOLDER, read
from bench.proving.scenario import LAPTOP
from bench.proving.sections import Rows

SCRIPT = scripted("....x.....x...........xx......." * 4)


def test_a_frontier_is_what_no_other_spot_beats() -> None:
    spots = [Spot(0.3, 0.3, 30), Spot(0.1, 0.4, 50), Spot(0.2, 0.2, 60), Spot(0.4, 0.5, 20)]
    assert frontier(spots) == [(0.1, 50), (0.3, 30), (0.4, 20)]
    assert frontier(spots, by_forwards=True) == [(0.2, 60), (0.3, 30), (0.5, 20)]


def test_the_figures_are_the_same_every_time(tmp_path: Path) -> None:
    rows = Rows(read(FOLDER)[0])
    for folder in ("one", "two"):
        plots.draw_all(rows, [SCRIPT], tmp_path / folder)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(drawn) == {"tpt.svg", "frontier.svg", "sweep.svg", "timeline.svg"}
    for name, data in drawn.items():
        assert (tmp_path / "two" / name).read_bytes() == data, name
        assert b"<dc:date>" not in data
    assert b"ours" in drawn["timeline.svg"]


def test_the_timeline_has_all_lanes_of_all_three() -> None:
    for title, timeline in plots.timelines_of(SCRIPT, LAPTOP).items():
        assert {span.lane for span in timeline.spans} == set(plots.LANES), title
