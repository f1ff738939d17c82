"""The simulators' timelines agree with their figures."""

from __future__ import annotations

import itertools

import pytest
from made import scripted

from bench.proving.methods.baselines import AUTHORS_SYSTEM, LEAN_SYSTEM, Play, System, pipesd
from bench.proving.methods.fixed import FIXED
from bench.proving.simulator.scenario import LAPTOP
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Simulation
from bench.proving.simulator.timeline import Lane, Timeline

UNSURE = dict.fromkeys(range(3, 60, 7), 0.8)


@pytest.fixture
def script() -> Script:
    return scripted("....x.....x...........xx......." * 2, UNSURE)


def tokens(timeline: Timeline, lane: Lane) -> int:
    return sum(span.tokens for span in timeline.spans if span.lane == lane)


def check(timeline: Timeline) -> None:
    for lane in ("drafting", "sending", "verifying"):
        spans = sorted((span for span in timeline.spans if span.lane == lane), key=lambda span: span.begin)
        assert all(span.end > span.begin for span in spans)
        for before, after in itertools.pairwise(spans):
            assert after.begin >= before.end - 1e-9, f"{lane} does one thing at a time"


@pytest.mark.parametrize("system", [AUTHORS_SYSTEM, LEAN_SYSTEM])
def test_a_published_method(script: Script, system: System) -> None:
    timeline = Timeline()
    figures = Play(script, pipesd(0.95, 0.9), LAPTOP, system, timeline=timeline).run()
    check(timeline)
    assert figures == Play(script, pipesd(0.95, 0.9), LAPTOP, system).run(), "looking changes nothing"
    assert tokens(timeline, "drafting") == figures.drafted
    assert tokens(timeline, "sending") == figures.sent
    assert tokens(timeline, "verifying") == figures.verified
    busy = sum(span.end - span.begin for span in timeline.spans if span.lane == "verifying")
    assert busy == pytest.approx(figures.busy_s)


def test_ours(script: Script) -> None:
    timeline = Timeline()
    figures = Simulation(script, FIXED, LAPTOP, timeline=timeline).run()
    check(timeline)
    assert figures == Simulation(script, FIXED, LAPTOP).run(), "looking changes nothing"
    assert tokens(timeline, "drafting") >= figures.drafted, "forwards that were aborted are shown, too"
    assert tokens(timeline, "sending") == figures.sent
    assert tokens(timeline, "verifying") == figures.verified
    useful = sum(span.useful for span in timeline.spans if span.lane == "drafting")
    assert 0 < useful <= sum(script.right)


def test_an_interval() -> None:
    timeline = Timeline()
    timeline.add("sending", 1.0, 2.0, 1)
    timeline.add("drafting", 0.0, 1.5, 1)
    timeline.add("drafting", 3.0, 4.0, 1)
    assert [(span.lane, span.begin) for span in timeline.within(1.2, 3.0)] == [("drafting", 0.0), ("sending", 1.0)]
