"""The best causal policy: searched among all families, at one cap."""

from __future__ import annotations

import pytest
from made import scripted

from bench.proving.methods.causal import FAMILIES, Running, ours
from bench.proving.methods.cells import Budget, Workload, run_all, run_best_causal
from bench.proving.methods.contenders import CONTENDERS
from bench.proving.simulator.scenario import LAPTOP, LONG, NARROW
from bench.proving.traces.stochastic import make_table
from pipesd_agent.control.batchers import BATCHERS
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.drafting.drafter import DraftToken

TINY = Budget(trials=3, tokens=60, report_tokens=120, search=4)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.of(make_table("small", 6, 60), TINY)


@pytest.mark.parametrize("scenario", [LAPTOP, NARROW[0], LONG[1]])
def test_nothing_causal_within_the_cap_is_faster(workload: Workload, scenario: object) -> None:
    rows = list(run_all(workload, [scenario], TINY))  # type: ignore[list-item]
    [best] = [row for row in rows if row["method"] == "best-causal"]
    published = workload.published(scenario, report=True)  # type: ignore[arg-type]
    cap = published.navs / published.tokens
    others = [row for row in rows if row.get("payload") == "ids" and row["method"] != "edge-only"]
    within = [row["tpt_ms"] for row in others if row["forwards_per_token"] <= cap]
    assert best["within_cap"]
    assert best["tpt_ms"] == min(within)
    family, *_ = best["parameters"]
    assert best["families"][family] == pytest.approx(best["tpt_ms"], abs=1e-3)
    assert min(best["families"].values()) == best["families"][family]


def test_one_cell_alone_is_what_it_is_among_all(workload: Workload) -> None:
    fresh = Workload(workload.name, workload.tuning, workload.report)
    [row] = [row for row in run_all(workload, [LAPTOP], TINY) if row["method"] == "best-causal"]
    assert run_best_causal(LAPTOP, fresh, TINY) == row


def test_families_are_what_they_are_called() -> None:
    names = [family.contender.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    assert {family.as_tuned for family in FAMILIES} - {""} <= {contender.name for contender in CONTENDERS}
    for family in FAMILIES:
        contender = family.contender
        assert contender.cap == "forwards"
        assert contender.first is not None
        assert len(contender.first) == len(contender.axes)


@pytest.mark.parametrize("batcher", BATCHERS)
def test_ours_plays_with_every_batcher_and_with_runs(batcher: str) -> None:
    script = scripted("....x...x" * 4, {3: 0.5})
    trigger = DualSettings(r1=0.4, r2=0.6)
    drafting = ours(trigger, batcher, 12)(script, LAPTOP, 0.0)
    running = ours(trigger, batcher, 12, lambda: Running(2, 1))(script, LAPTOP, 0.0)
    assert running.forwards - running.navs > drafting.forwards - drafting.navs


def test_when_the_target_runs_on() -> None:
    mode = Running(2, 1)
    assert mode.lead == 4
    assert [mode.drafted(DraftToken(5, 7, confidence), 0.0) for confidence in (0.9, 0.5)] == [0, 1]
