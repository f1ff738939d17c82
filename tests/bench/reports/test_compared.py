"""The report's tables that need no rows."""

from __future__ import annotations

import pytest
from made import table_lines as lines

from bench.proving.reports.compared import calibrated, fixed_thresholds, kinds, links, papers_tables, uplinks


def test_what_needs_no_rows() -> None:
    first, second = calibrated().split("\n\n")
    assert len(first.splitlines()) == 2 + 4 + 12
    assert len(lines(second)) == 2 + 4
    first, second = papers_tables().split("\n\n")
    assert len(first.splitlines()) == 2 + 32
    assert first.count("3-iot, bug 13") == 4
    assert len(lines(second)) == 2 + 4
    assert list(lines(uplinks()))[2:] == [f"uplink {mbit} Mbit/s" for mbit in (10, 20, 40, 80)]
    ratios = [cells[0].strip("*") for cells in lines(fixed_thresholds()).values()][2:]
    assert list(map(float, ratios)) == pytest.approx([0.305, 0.535, 0.825, 0.455], abs=0.01)
    assert [cells[0] for cells in list(lines(kinds()).values())[2:]] == ["60", "40", "40", "40", "180"] * 2
    assert list(lines(links()))[2:] == [
        *("narrow-10k", "narrow-30k", "narrow-100k"),
        *("rtt-100ms", "rtt-300ms", "rtt-600ms"),
    ]
