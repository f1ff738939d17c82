"""What the best causal policy is searched among: every family of policies that is built here, with token ids only.

Causal: it decides by what the edge knows at that time. All are searched at one cap, that of forwards, on the very
answers that are reported; so what is found is a bound for what any tuner could find, though not for what no family has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.proving.methods.baselines import LEAN_SYSTEM, Method, Play, edgellm, hsl, pipesd, vanilla
from bench.proving.methods.contenders import DECAYS, LENGTHS, OURS_FIRST, R1, R2, R2_ALONE, WINDOWS, Contender, Runner
from bench.proving.methods.search import Axes, Point
from bench.proving.simulator.planned import Planned
from bench.proving.simulator.simulation import Ours
from pipesd_agent.control.triggers import (
    BY_ENTROPY,
    AdaEdlSettings,
    DualSettings,
    FixedSettings,
    SequenceSettings,
    SvipSettings,
    TriggerSettings,
)
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.observer import Decision
from pipesd_agent.session.policies import AlwaysDraft, Mode
from pipesd_agent.session.settings import SessionSettings

NAME: Final = "best-causal"
NOT_CAUSAL: Final = ("edge-only",)
"""Contenders that are no candidates: other text."""
BATCHERS: Final = ("immediate", "dp", "expected", "single")
"""The grid of the search looks at the third, and its neighbours are tried."""
RUNS: Final = ((0, 2), (0, 1), (1, 0), (2, 0), (4, 0))
"""Tokens that the target goes on for after a rejection, and behind an unsure draft."""
UNSURE: Final = 0.8


class Running:
    """A `Mode`: drafting, the target running on as `auto` (pipesd_agent.control.mode) has it, always."""

    def __init__(self, rejected: int, unsure: int) -> None:
        self._rejected = rejected
        self._unsure = unsure
        self.lead = 2 * max(rejected, unsure)

    def opening(self, now: float) -> int:  # noqa: ARG002
        return 0

    def decided(self, decision: Decision, now: float) -> int | None:  # noqa: ARG002
        return (self._rejected or None) if decision.rejected else None

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        return self._unsure if token.confidence < UNSURE else 0


def ours(trigger: TriggerSettings, batcher: str, window: int, mode: Callable[[], Mode] = AlwaysDraft) -> Runner:
    """Of one agent."""
    settings = Ours(trigger, SessionSettings(window=window, free_start=1))
    agent = Planned(batcher)
    return lambda script, scenario, start: agent.play(settings, script, scenario, start, mode())


@dataclass(frozen=True)
class Family:
    """as_tuned: the contender whose tuned point the search begins with. share: of the search's trials; ours take ten
    times as long as the others. entropies: whether it needs them."""

    contender: Contender
    as_tuned: str = ""
    share: float = 1.0
    entropies: bool = False


def _lean(name: str, make: Callable[..., Method], axes: Axes, first: Point, as_tuned: str = "") -> Family:
    def runner(*point: Any) -> Runner:
        method = make(*point)
        return lambda script, scenario, start: Play(script, method, scenario, LEAN_SYSTEM, start).run()

    return Family(Contender(name, runner, axes, first, "forwards"), as_tuned)


def _pipesd_with(trigger: TriggerSettings) -> Method:
    return Method("pipesd", trigger, upload="plan", proactive=True)


def _ours_by(kind: str, value: Any, batcher: Any, window: Any) -> Runner:
    return ours(SvipSettings(h=value) if kind == "svip" else AdaEdlSettings(bound=value), batcher, window)


def _families() -> tuple[Family, ...]:
    def dual(r1: Any, r2: Any, batcher: Any, window: Any) -> Runner:
        return ours(DualSettings(r1=r1, r2=r2), batcher, window)

    def running(r1: Any, r2: Any, runs: Any, batcher: Any, window: Any) -> Runner:
        return ours(DualSettings(r1=r1, r2=r2), batcher, window, lambda: Running(*runs))

    def adapted(r1: Any, decay: Any, batcher: Any, window: Any) -> Runner:
        return ours(SequenceSettings(r1=r1, decay=decay), batcher, window)

    def by_entropy(kind: str, values: tuple[float, ...]) -> Family:
        make = Contender(
            f"ours, {kind}",
            lambda *point: _ours_by(kind, *point),
            (values, *axes),
            (values[2], "immediate", 16),
            "forwards",
        )
        return Family(make, share=0.125, entropies=True)

    heights = tuple(0.1 * 1.25**i for i in range(11))
    bounds = tuple(i / 12 for i in range(12))
    axes = (BATCHERS, (2, *WINDOWS))
    return (
        _lean("vanilla", vanilla, (LENGTHS,), (6,), "vanilla-tuned"),
        _lean("hsl", hsl, (R2_ALONE,), (0.99,), "hsl-tuned"),
        _lean("edgellm", edgellm, (R1[:-1], DECAYS), (0.92, 0.5), "edgellm-tuned"),
        _lean("pipesd", pipesd, (R1, R2), (0.95, 0.9), "pipesd-tuned"),
        _lean("pipesd, fixed", lambda length: _pipesd_with(FixedSettings(length=length)), (LENGTHS,), (6,)),
        _lean(
            "pipesd, sequence",
            lambda r1, decay: _pipesd_with(SequenceSettings(r1=r1, decay=decay)),
            (R1[:-1], DECAYS),
            (0.95, 0.98),
        ),
        Family(Contender("ours", dual, (R1, R2, *axes), OURS_FIRST, "forwards"), "ours-forwards", share=0.5),
        Family(
            Contender(
                "ours, running on", running, (R1, R2, RUNS, *axes), (0.1, 0.2, (1, 0), "expected", 12), "forwards"
            ),
            share=0.2,
        ),
        Family(
            Contender("ours, sequence", adapted, (R1[:-1], DECAYS, *axes), (0.92, 0.95, "expected", 12), "forwards"),
            share=0.2,
        ),
        *(by_entropy(kind, values) for kind, values in zip(BY_ENTROPY, (heights, bounds), strict=True)),
    )


FAMILIES: Final = _families()
