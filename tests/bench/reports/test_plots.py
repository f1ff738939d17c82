"""Figures: they can be drawn, and equal numbers give equal bytes."""

from __future__ import annotations

from pathlib import Path

from made import scripted

from bench.proving.reports import plots
from bench.proving.reports.report import FOLDER, read
from bench.proving.reports.sections import Rows
from bench.proving.simulator.scenario import LAPTOP

SCRIPT = scripted("....x.....x...........xx......." * 4)


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
