"""The methods under comparison: what there is to tune in each, and how one is played."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec

from bench.proving.methods.baselines import (
    AUTHORS_SYSTEM,
    LEAN_SYSTEM,
    PAPER_PAYLOAD,
    Method,
    Play,
    System,
    ablations,
    edge_only,
    edgellm,
    hsl,
    pipesd,
    vanilla,
)
from bench.proving.methods.search import Axes, Point
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.planned import Planned
from bench.proving.simulator.scenario import Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.session.settings import SessionSettings

Runner = Callable[[Script, Scenario, float], Figures]
SPACING_S: Final = 40.0
"""Answer number i begins at i times this on a varying link, whatever the method needed for those before."""


def _thresholds(*nats: float) -> tuple[float, ...]:
    return tuple(math.exp(-x) for x in nats)


R1: Final = (*_thresholds(0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.5, 2.2, 3.2), 0.0)
R2: Final = (*_thresholds(0.01, 0.03, 0.07, 0.15, 0.3, 0.6, 1.0, 1.6, 2.5), 0.0)
R2_ALONE: Final = _thresholds(*(0.003 * 1.6**i for i in range(16)))
WINDOWS: Final = (4, 8, 12, 16, 24, 32)
DECAYS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
BATCHERS: Final = ("immediate", "single")
LENGTHS: Final = tuple(range(1, 21))


@dataclass(frozen=True)
class Contender:
    """make: from a point of `axes` to a runner. first: the point that tuning begins with. cap: whether NAVs (or all
    steps of the target) per token are bounded by the NAVs of PipeSD as published in the same cell, or not at all.
    payload: what travels with a token."""

    name: str
    make: Callable[..., Runner]
    axes: Axes = ()
    first: Point | None = None
    cap: Literal["none", "navs", "forwards"] = "none"
    payload: str = "ids"


def _baseline(system: System, method: Method) -> Runner:
    return lambda script, scenario, start: Play(script, method, scenario, system, start).run()


def _fixed(name: str, system: System, method: Method) -> Contender:
    return Contender(name, lambda: _baseline(system, method), payload="paper" if system.token_bytes > 99 else "ids")


def _tuned(name: str, system: System, make: Callable[..., Method], axes: Axes, first: Point) -> Contender:
    payload = "paper" if system.token_bytes > 99 else "ids"
    return Contender(name, lambda *point: _baseline(system, make(*point)), axes, first, payload=payload)


def _one(_: Scenario) -> int:
    return 1


def _trip(scenario: Scenario) -> int:
    """What the target writes until something that the edge says when it knows the prompt could be there."""
    return 1 + int(2 * scenario.delay_s / scenario.forward.seconds(1))


def _ours(free_start: Callable[[Scenario], int | None], *, padding: int = 0) -> Callable[..., Runner]:
    def make(r1: Any, r2: Any, batcher: Any, window: Any) -> Runner:
        def run(script: Script, scenario: Scenario, start: float) -> Figures:
            session = SessionSettings(window=window, free_start=free_start(scenario))
            ours = Ours(DualSettings(r1=r1, r2=r2), session, batcher, padding=padding)
            return agent.play(ours, script, scenario, start)

        agent = Planned(batcher)
        return run

    return make


def _published(suffix: str, system: System) -> list[Contender]:
    """The paper's four methods: with the authors' parameters and tuned."""
    methods = (vanilla(4), vanilla(6), vanilla(8), hsl(0.99), edgellm(0.92, 0.5), edgellm(0.92, 0.95))
    names = ("vanilla-4", "vanilla-6", "vanilla-8", "hsl", "edgellm-decay-0.5", "edgellm")
    return [
        *(_fixed(name + suffix, system, method) for name, method in zip(names, methods, strict=True)),
        _fixed("pipesd" + suffix, system, pipesd(0.95, 0.9)),
        _tuned("vanilla-tuned" + suffix, system, vanilla, (LENGTHS,), (6,)),
        _tuned("hsl-tuned" + suffix, system, hsl, (R2_ALONE,), (0.99,)),
        _tuned("edgellm-tuned" + suffix, system, edgellm, (R1[:-1], DECAYS), (0.92, 0.95)),
        _tuned("pipesd-tuned" + suffix, system, pipesd, (R1, R2), (0.95, 0.9)),
    ]


def _ablations(suffix: str, system: System) -> list[Contender]:
    """Of the paper's table 6: with the authors' parameters and tuned."""
    pairs, one = (R1, R2), (R2_ALONE,)
    tunable: tuple[tuple[Axes, Point, Callable[..., Any]], ...] = (
        (pairs, (0.95, 0.9), lambda r1, r2: {"r1": r1, "r2": r2}),
        ((LENGTHS,), (6,), lambda length: {"length": length}),
        (one, (0.99,), lambda r2: {"r2": r2}),
        ((R1[:-1], DECAYS), (0.95, 0.97), lambda r1, decay: {"r1": r1, "decay": decay}),
    )
    found = []
    for method, (axes, first, figures) in zip(ablations(0.95, 0.9), tunable, strict=True):

        def make(*point: Any, method: Method = method, figures: Callable[..., Any] = figures) -> Method:
            return replace(method, trigger=msgspec.structs.replace(method.trigger, **figures(*point)))

        found.append(_fixed(method.name + suffix, system, method))
        found.append(_tuned(f"{method.name}-tuned{suffix}", system, make, axes, first))
    return found


PUBLISHED: Final = "pipesd+payload"
OURS_AXES: Final = (R1, R2, BATCHERS, WINDOWS)
OURS_FIRST: Final = (0.1, 0.2, "immediate", 16)
"""The agent's defaults."""
CONTENDERS: Final = (
    Contender("cloud-only", lambda: lambda *where: Simulation(where[0], Ours(drafts=False), *where[1:]).run()),
    Contender("edge-only", lambda: lambda script, scenario, _: edge_only(script, scenario)),
    *_published("", LEAN_SYSTEM),
    *_published("+payload", AUTHORS_SYSTEM),
    *_ablations("+payload", AUTHORS_SYSTEM),
    Contender("ours", _ours(_trip), OURS_AXES, OURS_FIRST, "navs"),
    Contender("ours-forwards", _ours(_one), OURS_AXES, OURS_FIRST, "forwards"),
    Contender("ours+payload", _ours(_trip, padding=PAPER_PAYLOAD), OURS_AXES, OURS_FIRST, "navs", "paper"),
    Contender("ours-fastest", _ours(lambda _: None), OURS_AXES, OURS_FIRST),
)


def play(
    runner: Runner,
    scripts: Sequence[Script],
    scenario: Scenario,
    enough: Callable[[Figures], bool] = lambda _: False,
) -> Figures:
    """All answers; or those until the sums so far are enough to know."""
    total = Figures()
    for number, script in enumerate(scripts):
        total.add(runner(script, scenario, SPACING_S * number))
        if enough(total):
            break
    return total
