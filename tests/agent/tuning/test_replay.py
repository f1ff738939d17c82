"""Rehearsals: by hand where that is possible, else against the real sessions in virtual time."""

from __future__ import annotations

import math

import pytest

from bench.proving.simulator.scenario import LAPTOP, LONG, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.stochastic import make_table
from bench.proving.traces.table import Trace
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts, UploadStrategy, replay

SURE = Judged(0.99, right=True)
UPLOADS: tuple[UploadStrategy, ...] = ("immediate", "planned", "single")
LAST = Pair(0.0, 0.5)
"""Verifies what is as unsure as this, nothing else."""


def text_of(trace: Trace) -> list[Judged]:
    found = []
    for row, right in enumerate(trace.drafts[:, 0] == trace.tokens):
        astray = () if right else tuple(trace.confidence[row, 1:10].tolist())
        found.append(Judged(float(trace.confidence[row, 0]), bool(right), astray))
    return found


def test_one_verification_by_hand() -> None:
    # Two sure drafts, then an unsure one that is right: drafted at 1, 2, 3 s; there at 3.5; done at 3.5 + 10 + 4; the
    # target's own token makes it four.
    text = [SURE, SURE, Judged(0.4, right=True), SURE]
    cost = replay(text, LAST, PipelineCosts(draft_s=1.0, trip_s=1.0, step_s=10.0, row_s=1.0), 16)
    assert (cost.tokens, cost.verifications) == (4, 1)
    assert cost.seconds == pytest.approx(3 + 0.5 + 14 + 0.5)
    assert cost.per_token(2.0) == pytest.approx((18 + 2.0) / 4)


def test_a_wrong_draft_is_corrected_and_drafting_begins_anew() -> None:
    # Wrong at once, verified at once: 1 + 3 s; then the same again.
    text = [Judged(0.4, right=False), Judged(0.4, right=False)]
    cost = replay(text, LAST, PipelineCosts(draft_s=1.0, trip_s=0.0, step_s=3.0), 16)
    assert (cost.tokens, cost.verifications) == (2, 2)
    assert cost.seconds == pytest.approx(8.0)


def test_the_window_bounds_what_is_drafted_during_a_verification() -> None:
    cost = replay([SURE] * 12, Pair(0.0, 0.0), PipelineCosts(draft_s=1.0, trip_s=0.0, step_s=100.0), 5)
    # Five drafts, a step that accepts them and adds one, and so on.
    assert (cost.tokens, cost.verifications) == (12, 2)
    assert cost.seconds == pytest.approx(5 + 100 + 5 + 100)


def test_drafts_after_a_wrong_one_are_as_sure_as_they_were() -> None:
    # The wrong draft is sure; the next one is not, and asks for the verification that finds it out.
    costs = PipelineCosts(draft_s=1.0, trip_s=0.0, step_s=1.0)
    found_out = replay([Judged(0.99, right=False, discarded_confidences=(0.3,))], LAST, costs, 16)
    assert found_out.seconds == pytest.approx(2 + 1)
    later = replay([Judged(0.99, right=False, discarded_confidences=(0.9, 0.9, 0.3))], LAST, costs, 16)
    assert later.seconds == pytest.approx(4 + 1)


def test_what_a_batcher_does_costs_the_link() -> None:
    costs = PipelineCosts(0.01, 0.0, 0.01, message_s=0.05, token_s=0.001)
    cost = {upload: replay([SURE] * 64, Pair(0.9, 0.0), costs, 16, upload).seconds for upload in UPLOADS}
    assert cost["immediate"] == pytest.approx(64 * 0.051, rel=0.1)  # the link never rests
    assert max(cost["planned"], cost["single"]) < 0.5 * cost["immediate"]


def test_a_slow_link_makes_tokens_gather() -> None:
    quick = replay([SURE] * 64, Pair(0.9, 0.0), PipelineCosts(0.01, 0.0, 0.01), 16)
    slow = replay([SURE] * 64, Pair(0.9, 0.0), PipelineCosts(0.01, 0.0, 0.01, message_s=0.1, token_s=0.02), 16)
    assert slow.seconds > 64 * 0.02 > quick.seconds


@pytest.mark.parametrize("scenario", [LAPTOP, LONG[0]], ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("pair", [Pair(0.1, 0.2), Pair(0.6, 0.8), Pair(0.95, 0.98), Pair(0.0, 0.9)])
def test_it_agrees_with_the_real_sessions(scenario: Scenario, pair: Pair) -> None:
    (trace,) = make_table("t", 1, 600).traces
    ours = Ours(DualSettings(r1=pair.r1, r2=pair.r2), SessionSettings(free_start=1))
    real = Simulation(Script(trace), ours, scenario).run()
    costs = PipelineCosts(scenario.draft_s, 2 * scenario.delay_s, scenario.forward.base_s, scenario.forward.row_s)
    cost = replay(text_of(trace), pair, costs, 16)
    assert math.log(cost.seconds / cost.tokens / (real.seconds / real.tokens)) == pytest.approx(0, abs=0.1)
    assert math.log(cost.verifications / cost.tokens / (real.navs / real.tokens)) == pytest.approx(0, abs=0.1)
