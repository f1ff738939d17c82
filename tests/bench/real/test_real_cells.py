"""Virtual against real time: the cells, and the costs that traces of real agents tell."""

from __future__ import annotations

import pytest

from bench.proving.real.cells import CELLS, PROBE, Costs, costs_of
from bench.proving.real.report import LEAST_CELLS
from bench.proving.simulator.figures import Figures
from pipesd_agent.telemetry.tracing import Decided, Drafted, LiveTrace, SentDrafts
from pipesd_core.protocol.messages import Reason

MS = 0.001


SHORT = Figures(answers=2, tokens=8, seconds=2 * 5 * MS + 8 * 20.5 * MS)
LONG = Figures(answers=2, tokens=180, seconds=2 * 5 * MS + 180 * 20.5 * MS)
"""Steps of 20.5 ms, and 5 ms for each request besides."""


def rounds(count: int, handling: float) -> LiveTrace:
    """Two drafts 36.2 ms apart, their message 0.1 ms later, a verdict after a step of 20.5 ms and `handling`."""
    first = Decided(25 * MS, 10, 1, 0, 0, Reason.RUN, 0, 20_000)
    drafted: list[Drafted] = []
    sent: list[SentDrafts] = []
    decided = [first]
    at = 25 * MS
    for number in range(count):
        position = 11 + 2 * number
        drafted += [Drafted(at + t * MS, 1 + number, position + i, 7, 1.0, 0.0, 0.0) for i, t in enumerate((40, 76.2))]
        sent.append(SentDrafts(at + 76.3 * MS, position, 2, position + 1, 20))
        at += 76.3 * MS + 20.5 * MS + handling
        decided.append(Decided(at, position, 2, 2, 2, Reason.VERIFICATION, 300, 20_000))
    return LiveTrace(1, "r", 10, 0.0, 1, (), (7,) * (1 + 2 * count), tuple(drafted), tuple(sent), tuple(decided), True)


def test_costs_are_what_is_beyond_the_floors() -> None:
    costs = costs_of(SHORT, LONG, [rounds(3, 1.5 * MS), rounds(2, 1.5 * MS)], PROBE.scenario)
    found = (costs.draft_s, costs.step_s, costs.handling_s, costs.opening_s)
    assert found == pytest.approx((0.2 * MS, 0.5 * MS, 1.5 * MS, 3.5 * MS))


def test_a_slow_round_is_none_of_the_costs() -> None:
    costs = costs_of(SHORT, LONG, [rounds(5, 1.5 * MS), rounds(1, 90 * MS)], PROBE.scenario)
    assert costs.handling_s == pytest.approx(1.5 * MS)


def test_traces_without_a_round_say_nothing() -> None:
    with pytest.raises(ValueError, match="no round"):
        costs_of(SHORT, LONG, [rounds(0, MS)], PROBE.scenario)


def test_costs_are_charged_where_they_arise() -> None:
    scenario = CELLS[0].scenario
    charged = Costs(0.2 * MS, 0.5 * MS, 1.5 * MS, 3 * MS).charged(scenario)
    assert charged.draft_s - scenario.draft_s == pytest.approx(0.2 * MS)
    assert charged.delay_s - scenario.delay_s == pytest.approx(0.75 * MS)
    assert charged.forward.seconds(9) - scenario.forward.seconds(9) == pytest.approx(0.5 * MS)


def test_cells_differ_and_are_enough() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) >= LEAST_CELLS
    assert {cell.temperature for cell in CELLS} == {0, 1}
    assert {cell.workload for cell in CELLS} == {"humaneval", "chat"}
