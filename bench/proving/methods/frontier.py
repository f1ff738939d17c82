"""What each family of methods can trade: TPT against verifications, over its thresholds. With token ids only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.proving.methods.baselines import LEAN_SYSTEM, Method, Play, edgellm, hsl, pipesd, vanilla
from bench.proving.methods.contenders import R1, R2, R2_ALONE, SPACING_S
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings

LENGTHS: Final = (1, 2, 3, 4, 5, 6, 8, 10, 14, 20)


@dataclass(frozen=True)
class Spot:
    """Per output token. forwards: with those of free runs, which no NAV asked for."""

    navs: float
    forwards: float
    tpt_ms: float


def families() -> dict[str, list[Method | Ours]]:
    """Settings of each."""
    pairs = list(itertools.product(R1[::2], R2[::3]))
    return {
        "Vanilla": [vanilla(length) for length in LENGTHS],
        "HSL": [hsl(r2) for r2 in R2_ALONE[::2]],
        "EdgeLLM": [edgellm(r1, decay) for r1 in R1[:-1:3] for decay in (0.7, 0.9, 0.98)],
        "PipeSD": [pipesd(r1, r2) for r1, r2 in pairs],
        "ours": [
            Ours(DualSettings(r1=r1, r2=r2), SessionSettings(window=window, free_start=1))
            for r1, r2 in pairs
            for window in (12, 24)
        ],
    }


def spots(settings: Sequence[Method | Ours], scripts: Sequence[Script], scenario: Scenario) -> Iterator[Spot]:
    """Where each setting lies."""
    for setting in settings:
        total = Figures()
        for number, script in enumerate(scripts):
            start = SPACING_S * number
            if isinstance(setting, Ours):
                total.add(Simulation(script, setting, scenario, start).run())
            else:
                total.add(Play(script, setting, scenario, LEAN_SYSTEM, start).run())
        yield Spot(total.navs / total.tokens, total.forwards / total.tokens, total.tpt_ms)


def frontier(spots: Sequence[Spot], *, by_forwards: bool = False) -> list[tuple[float, float]]:
    """(NAVs or forwards per token, TPT) of the spots that no other beats in both, from few to many."""
    best: list[tuple[float, float]] = []
    for x, y in sorted((spot.forwards if by_forwards else spot.navs, spot.tpt_ms) for spot in spots):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best
