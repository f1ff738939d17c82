"""The models of the published methods give the authors' figures."""

from __future__ import annotations

import pytest

from bench.proving.methods.baselines import AUTHORS_SYSTEM, ablations, vanilla
from bench.proving.methods.calibration import (
    BUG_13,
    DIAGNOSTIC_MS,
    DIAGNOSTIC_ROUNDS,
    METHODS,
    SWEEP_MS,
    TABLE_1_MS,
    TABLE_METHODS,
    lines,
    measured,
)
from bench.proving.simulator.scenario import AUTHORS


@pytest.mark.parametrize("name", METHODS)
def test_scenario_1(name: str) -> None:
    assert measured(METHODS[name], AUTHORS[0]).tpt_ms == pytest.approx(DIAGNOSTIC_MS[name], rel=0.10)


@pytest.mark.parametrize("mbit", [10, 40])
@pytest.mark.parametrize("name", METHODS)
def test_uplinks_that_nothing_was_fitted_to(mbit: int, name: str) -> None:
    assert measured(METHODS[name], AUTHORS[0].uplink(mbit)).tpt_ms == pytest.approx(SWEEP_MS[mbit][name], rel=0.20)


@pytest.mark.parametrize("name", METHODS)
def test_rounds_are_the_paper_s(name: str) -> None:
    """Within the sampling error of the authors' five answers (fit.ERRORS): about a tenth."""
    navs, draft, acceptance = DIAGNOSTIC_ROUNDS[name]
    row = measured(METHODS[name], AUTHORS[0]).row()
    assert row["navs_per_token"] == pytest.approx(navs, rel=0.12)
    assert row["mean_draft"] == pytest.approx(draft, rel=0.12)
    assert row["acceptance"] == pytest.approx(acceptance, rel=0.05)


@pytest.mark.parametrize("number", range(4))
def test_the_paper_s_order(number: int) -> None:
    """Of table 1, in each scenario; there HSL and EdgeLLM are equal but for 1 % in scenario 1, 4 % in 4."""
    vanilla_ms, hsl_ms, edgellm_ms, pipesd_ms = (measured(METHODS[name], AUTHORS[number]).tpt_ms for name in METHODS)
    assert pipesd_ms < min(hsl_ms, edgellm_ms)
    assert edgellm_ms < 1.05 * hsl_ms
    assert vanilla_ms > max(hsl_ms, edgellm_ms)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("name", TABLE_METHODS)
def test_table_1(number: int, name: str) -> None:
    """Within 15 % with the authors' bug 13. (Scenario 4's rates cannot have been as described: our link is faster.)"""
    paper_ms = TABLE_1_MS[number][name]
    assert measured(TABLE_METHODS[name], AUTHORS[number], BUG_13).tpt_ms == pytest.approx(paper_ms, rel=0.15)


def test_bug_13_flatters_pipesd_on_slow_edges() -> None:
    fair, flattered = (measured(METHODS["pipesd"], AUTHORS[2], system).tpt_ms for system in (AUTHORS_SYSTEM, BUG_13))
    assert flattered == pytest.approx(TABLE_1_MS[2]["pipesd"], rel=0.05)
    assert fair > 1.2 * flattered


def test_what_the_ablations_lose() -> None:
    """Table 6: all lie between Vanilla and the whole, but for the token threshold, which the model finds as good."""
    whole, vanilla_6 = (measured(method, AUTHORS[0]).tpt_ms for method in (METHODS["pipesd"], vanilla(6)))
    no_pipeline, fixed, token, sequence = (measured(method, AUTHORS[0]).tpt_ms for method in ablations(0.95, 0.9))
    assert whole < sequence < no_pipeline < fixed < vanilla_6
    assert token == pytest.approx(whole, rel=0.05)


def test_the_comparison_can_be_printed() -> None:
    text = list(lines())
    assert len(text) == 4 + 12 + 32 + 4
    assert any("table 1, 3-iot, bug 13" in line for line in text)
