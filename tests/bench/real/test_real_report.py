"""Virtual against real time: ratios, what counts as agreement, and the page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.proving.real.cells import CELLS, Costs
from bench.proving.real.report import Run, agreement, agreements, enough, page, table
from bench.proving.simulator.figures import Figures

COSTS = Costs(0.0002, 0.0003, 0.001, 0.004)


def run(cell: int = 0, real: float = 10.0, virtual: float = 10.0, repeat: int = 0, same_text: bool = True) -> Run:
    figures = Figures(answers=2, tokens=100, seconds=real, navs=20, forwards=30, bytes_up=5000)
    simulated = replace(figures, seconds=virtual)
    return Run(CELLS[cell], repeat, figures, simulated, replace(simulated, seconds=virtual / 2), same_text)


def test_the_median_of_the_repeats_counts() -> None:
    found = agreement([run(real=10.2, repeat=0), run(real=13.0, repeat=1), run(real=10.4, repeat=2)])
    assert (found.ratio, found.least, found.most) == pytest.approx((1.04, 1.02, 1.3))
    assert found.bare == pytest.approx(2.08)
    assert found.real["tpt_ms"] == pytest.approx(104)
    assert found.agrees


@pytest.mark.parametrize(("real", "agrees"), [(9.4, False), (9.6, True), (10.4, True), (10.6, False)])
def test_five_per_cent_either_way(real: float, agrees: bool) -> None:
    assert agreement([run(real=real)]).agrees is agrees


def test_six_cells_are_enough_and_another_text_is_not() -> None:
    six = [run(cell) for cell in range(6)]
    assert enough(agreements(six))
    assert not enough(agreements(six[1:]))
    assert enough(agreements([*six, run(6, real=20.0)]))
    assert not enough(agreements([*six, run(6, same_text=False)]))


def test_cells_keep_their_order() -> None:
    found = agreements([run(2), run(1), run(2, repeat=1)])
    assert [(each.cell, each.repeats) for each in found] == [(CELLS[2], 2), (CELLS[1], 1)]


def test_a_row_has_all_three_times() -> None:
    row = run(real=11.0).row()
    assert row["ratio"] == pytest.approx(1.1)
    assert [row[kind]["tpt_ms"] for kind in ("real", "virtual", "bare")] == pytest.approx([110, 100, 50])


def test_the_page_names_every_cell_and_what_is_off() -> None:
    found = agreements([run(cell, real=10.1) for cell in range(6)] + [run(6, real=12.0)])
    text = page(found, COSTS, {"answers": 2, "command": "made up", "cores": 2, "minutes": 5.0, "load": 1.0})
    assert "**6 of 7 cells agree within 5 %**" in text
    assert "+20.0 %" in text
    assert all(each.cell.name in text for each in found)
    assert [line.count("|") for line in table(found)] == [10] * 9
    assert "1.200 (!)" in table(found)[-1]
