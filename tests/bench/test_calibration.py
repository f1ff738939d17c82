"""Do the models give the authors' figures? (issue "proving ground", first line of "It is done when")

Nothing is tuned to times here: the text's parameters come from draft lengths and acceptances (bench/proving/fit.py),
the times of drafting and verifying and of a request from papers/pipesd.md §9.2 to §9.4, the link from its rate. One
thing was changed after times had been seen: EdgeLLM uploads what it drafts during a NAV at once, as the authors' code
does for all methods that draft then; with everything held back to its NAV it was at +12.6 % in scenario 1.
"""

from __future__ import annotations

from functools import cache

import pytest

from bench.proving.baselines import AUTHORS_SYSTEM, Method, Play, ablations, edgellm, hsl, pipesd, vanilla
from bench.proving.figures import Figures
from bench.proving.scenario import AUTHORS, Scenario
from bench.proving.script import Script
from bench.proving.stochastic import make_table

METHODS = {"vanilla": vanilla(8), "hsl": hsl(0.99), "edgellm": edgellm(0.92, 0.95), "pipesd": pipesd(0.95, 0.9)}
"""With the parameters of the authors' diagnostic run."""


@cache
def scripts() -> list[Script]:
    """Answers as long as the authors'."""
    return [Script(trace) for trace in make_table("calibration", 40, 130, seed=5).traces]


@cache
def measured(method: Method, scenario: Scenario) -> Figures:
    total = Figures()
    for number, script in enumerate(scripts()):
        total.add(Play(script, method, scenario, AUTHORS_SYSTEM, start=40.0 * number).run())
    return total


@pytest.mark.parametrize(("name", "paper_ms"), [("vanilla", 188), ("hsl", 150), ("edgellm", 139), ("pipesd", 125)])
def test_scenario_1(name: str, paper_ms: float) -> None:
    assert measured(METHODS[name], AUTHORS[0]).tpt_ms == pytest.approx(paper_ms, rel=0.10)


@pytest.mark.parametrize(
    ("mbit", "name", "paper_ms"),
    [
        (10, "vanilla", 306.6),
        (10, "hsl", 243.7),
        (10, "edgellm", 252.0),
        (10, "pipesd", 232.0),
        (40, "vanilla", 115.6),
        (40, "hsl", 100.8),
        (40, "edgellm", 89.8),
        (40, "pipesd", 79.7),
    ],
)
def test_uplinks_that_nothing_was_fitted_to(mbit: int, name: str, paper_ms: float) -> None:
    assert measured(METHODS[name], AUTHORS[0].uplink(mbit)).tpt_ms == pytest.approx(paper_ms, rel=0.20)


@pytest.mark.parametrize(
    ("name", "navs", "draft", "acceptance"),
    [
        ("vanilla", 0.1396, 8.00, 0.7704),
        ("hsl", 0.2558, 3.18, 0.9148),
        ("edgellm", 0.1912, 4.74, 0.8917),
        ("pipesd", 0.1733, 4.96, 0.9616),
    ],
)
def test_rounds_are_the_paper_s(name: str, navs: float, draft: float, acceptance: float) -> None:
    """Within the sampling error of the authors' five answers (fit.ERRORS): about a tenth."""
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


def test_what_the_ablations_lose() -> None:
    """Table 6: all lie between Vanilla and the whole, but for the token threshold, which the model finds as good."""
    whole, vanilla_6 = (measured(method, AUTHORS[0]).tpt_ms for method in (METHODS["pipesd"], vanilla(6)))
    no_pipeline, fixed, token, sequence = (measured(method, AUTHORS[0]).tpt_ms for method in ablations(0.95, 0.9))
    assert whole < sequence < no_pipeline < fixed < vanilla_6
    assert token == pytest.approx(whole, rel=0.05)
