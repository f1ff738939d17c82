"""Triggers and confidences on recorded answers, and what a calibration learns from them."""

from __future__ import annotations

import math

import pytest

from bench.proving.methods.cells import Budget, Workload
from bench.proving.methods.triggers import (
    SETTINGS,
    best_pair,
    entries,
    mixed,
    names,
    run_entry,
    section,
)
from bench.proving.simulator.figures import Figures
from bench.proving.traces.probabilities import KINDS, with_probability
from bench.proving.traces.recorded import TEMPERATURES, recorded
from bench.proving.traces.workloads import NAMES
from pipesd_agent.control.calibration import Calibration
from pipesd_agent.drafting.drafter import DraftToken


def figures(forwards: int, seconds: float) -> Figures:
    return Figures(tokens=100, forwards=forwards, navs=forwards, seconds=seconds)


def test_a_mixture_lies_between_its_two() -> None:
    assert mixed(figures(20, 10.0), figures(40, 6.0), 0.25) == pytest.approx((0.75, 90.0))
    assert mixed(figures(20, 10.0), figures(20, 10.0), 0.3) == (1.0, 100.0)


def test_the_best_pair_is_the_fastest_mixture_at_the_budget() -> None:
    played = [figures(10, 20.0), figures(20, 12.0), figures(30, 11.0), figures(40, 6.0)]
    assert best_pair(played, 0.25) == (1, 3)
    assert best_pair(played, 0.05) == (0, 1), "beyond them: the nearest, and one that is apart from it"
    assert best_pair(played, 0.5)[1] == 3
    assert best_pair([figures(22, 9.0), figures(20, 10.0), figures(21, 9.5)], 0.3) == (1, 0), "none are apart"


def test_all_have_the_same_number_of_settings() -> None:
    assert {len(entry.settings) for entry in entries()} == {SETTINGS}
    assert len(set(names())) == len(entries())


def test_a_row_of_each_kind() -> None:
    table = recorded("chat", 1.0)
    budget = Budget(tokens=192, report_tokens=192)
    as_recorded = Workload.of(table, budget)
    cells = {}
    for entry in entries():
        if entry.name in ("trigger-fixed", "trigger-token-drawn", "trigger-dual-online", "trigger-svip"):
            workload = as_recorded
            if entry.confidence in KINDS:
                workload = Workload.of(with_probability(table, entry.confidence), budget)
            row = run_entry(entry, workload, as_recorded)
            low, high = row["at"]
            assert 0 < low["navs_per_token"] < high["navs_per_token"] < 1
            cells[table.name, row["scenario"], entry.name] = row
    assert len({row["forwards_per_token"] for row in cells.values()}) == 1, "compared at equal steps of the target"
    lines = section(cells).splitlines()
    assert len(lines) == 2 + 4
    assert "| drawn token's probability |" in lines[3]
    assert section({}) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_belong_to_the_recorded_drafts(kind: str) -> None:
    for name in NAMES:
        for trace in with_probability(recorded(name, 1.0), kind).traces:
            drafted = trace.drafts >= 0
            assert (trace.confidence[~drafted] == 0).all()
            assert ((trace.confidence >= 0) & (trace.confidence <= 1)).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
def test_a_calibration_is_better_than_the_drafter_on_recorded_answers(temperature: float, order: list[str]) -> None:
    """Also while it begins, and when the workload changes: each token is predicted before it is judged."""
    calibration = Calibration()
    for name in order:
        gained, count = 0.0, 0
        for trace in recorded(name, temperature).traces:
            for p, truth in enumerate(trace.tokens.tolist()):
                token = DraftToken(
                    p,
                    int(trace.drafts[p, 0]),
                    float(trace.confidence[p, 0]),
                    float(trace.margin[p, 0]),
                    float(trace.entropy[p, 0]),
                )
                right = token.token == truth
                gained += loss(token.confidence, right) - loss(calibration.confidence(token), right)
                count += 1
                calibration.judged(token, right)
        assert gained / count > 0.01


def loss(probability: float, right: bool) -> float:
    return -math.log(max(1e-3, probability if right else 1 - probability))
