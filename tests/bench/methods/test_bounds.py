"""The clairvoyant schedule, by hand and against what was simulated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made import scripted

from bench.link.model import Rate
from bench.proving.methods.bounds import clairvoyant
from bench.proving.simulator.scenario import LAPTOP, PAPER, Forward, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.stochastic import make_table
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings

TEN = Scenario("ten", 0.010, Rate((8e12,)), Rate((8e12,)), 0.001, Forward(0.001, 0.0))
"""10 ms a draft, 1 ms a step, 3 ms from asking to knowing."""


@pytest.mark.parametrize(
    ("pattern", "forwards", "runs", "ms"),
    [
        ("....", 1, True, 2 + 30 + 3),
        ("....", 2, True, 2 + 20 + 4),  # the last two by the target
        ("....", 2, False, 2 + 20 + 6),
        ("....", 9, True, 2 + 4),
        ("..x.", 2, True, 2 + 20 + 4),  # two in a row
        ("..x..", 3, True, 2 + 20 + 5),  # the gap of one is the target's: three in a row
        ("x...", 0, True, 2 + 20 + 1 + 3),  # the opening answers for the first token's trip
    ],
)
def test_by_hand(pattern: str, forwards: int, runs: bool, ms: float) -> None:
    assert 1000 * clairvoyant(scripted(pattern), TEN, forwards, runs=runs) == pytest.approx(ms, abs=0.01)


def test_a_slow_target_is_asked_no_more_than_needed() -> None:
    slow = replace(TEN, forward=Forward(0.05, 0.0))
    assert clairvoyant(scripted("." * 20), slow, 20, runs=True) == clairvoyant(scripted("." * 20), slow, 1, runs=True)


@pytest.mark.parametrize("scenario", PAPER)
def test_nothing_simulated_is_faster(scenario: Scenario) -> None:
    for trace in make_table("bound", 3, 100, seed=9).traces:
        script = Script(trace)
        for r1 in (0.4, 0.9):
            settings = SessionSettings(free_start=1)
            ours = Ours(trigger=DualSettings(r1=r1, r2=0.3), session=settings)
            figures = Simulation(script, ours, scenario).run()
            assert clairvoyant(script, scenario, figures.forwards, runs=True) <= figures.seconds


def test_more_steps_never_hurt() -> None:
    script = Script(make_table("bound", 1, 200, seed=4).traces[0])
    for runs in (False, True):
        seconds = [clairvoyant(script, LAPTOP, forwards, runs=runs) for forwards in range(0, 200, 7)]
        assert seconds == sorted(seconds, reverse=True)
