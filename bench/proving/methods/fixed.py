"""Ours with one pair of thresholds for all scenarios against PipeSD as published, at no more steps of the target.

The thresholds and the window were chosen by hand, once: the tuner has no part in this. The text is the calibration's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from bench.proving.methods.baselines import LEAN_SYSTEM
from bench.proving.methods.bounds import clairvoyant
from bench.proving.methods.calibration import METHODS, measured, scripts
from bench.proving.methods.contenders import play
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings

FIXED: Final = Ours(
    trigger=DualSettings(r1=0.92, r2=0.95),
    session=SessionSettings(window=10, free_start=1),
    batcher="immediate",
)


@dataclass(frozen=True)
class Comparison:
    """lean: PipeSD with token ids only. bound_ms: TPT of the clairvoyant schedule with as many steps as `ours` took.
    drafting_ms: what it spends on drafting: no schedule with drafts in it is below."""

    scenario: Scenario
    ours: Figures
    published: Figures
    lean: Figures
    bound_ms: float
    drafting_ms: float

    @property
    def ratio(self) -> float:
        """Of TPTs; below 1 ours is faster."""
        return self.ours.tpt_ms / self.published.tpt_ms


@cache
def ours(scenario: Scenario, batcher: str = "immediate") -> Figures:
    """With the fixed thresholds."""
    settings = replace(FIXED, batcher=batcher)
    return play(lambda script, *where: Simulation(script, settings, *where).run(), scripts(), scenario)


@cache
def lean(scenario: Scenario) -> Figures:
    """PipeSD with token ids only."""
    return measured(METHODS["pipesd"], scenario, LEAN_SYSTEM)


@cache
def compare(scenario: Scenario) -> Comparison:
    figures = ours(scenario)
    steps = figures.forwards / figures.tokens
    bound = sum(clairvoyant(script, scenario, int(steps * len(script)), runs=False) for script in scripts())
    return Comparison(
        scenario,
        figures,
        measured(METHODS["pipesd"], scenario),
        lean(scenario),
        1000 * bound / figures.tokens,
        1000 * scenario.draft_s * (1 - steps),
    )
