"""Triggers and confidences on the demo pair at T = 1: which trigger gains what from which confidence?

Each plays the same number of settings on the even answers, ours around it (window 16, immediate), where drafts are dear
and what counts is the TPT at equal steps of the target: of the settings, the two are taken whose mixture is fastest at
a budget of steps (some answers with the one, others with the other), and their TPT on the odd answers is interpolated
to it. Where steps are dear instead (`fast-edge`) there is a percent between all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from bench.markdown import markdown
from bench.proving.methods.cells import Budget, Workload
from bench.proving.methods.contenders import Runner, play
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import PAPER, Scenario
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.probabilities import KINDS, with_probability
from bench.proving.traces.recorded import recorded
from bench.proving.traces.workloads import NAMES
from pipesd_agent.control.calibration import Calibration, SessionCalibration
from pipesd_agent.control.triggers import (
    AdaEdlSettings,
    DualSettings,
    FixedSettings,
    SequenceSettings,
    SvipSettings,
    TokenSettings,
    TriggerSettings,
)
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.settings import SessionSettings

OURS: Final = Ours(session=SessionSettings(window=16, free_start=1))
CONFIDENCES: Final = {
    "max": "largest probability (the paper's)",
    "drawn": "drawn token's probability",
    "margin": "margin, fitted on the demo pair",
    "online": "margin and entropy, fitted online",
}
SCENARIO: Final = PAPER[2]
BUDGETS: Final = (0.92, 1.0)
"""Of the NAVs for a token of PipeSD as published."""
APART: Final = 0.04
"""Steps for a token between the two settings of a mixture, at least, so that their order is not chance."""
SETTINGS: Final = 24
TUNING_TOKENS: Final = 1024
FAR: Final = 0.5
"""A mixture with a share of less than none, or more than all, by more than this is not shown."""


@dataclass(frozen=True)
class Entry:
    """A trigger with a confidence ("": it looks at none), and the settings to choose from."""

    kind: str
    confidence: str
    settings: tuple[TriggerSettings, ...]

    @property
    def name(self) -> str:
        return "-".join(filter(None, ("trigger", self.kind, self.confidence)))

    def runner(self, settings: TriggerSettings) -> Runner:
        """Plays one answer after the other; an online fit begins with the first of them."""
        ours = replace(OURS, trigger=settings)
        if self.confidence != "online":
            return lambda script, scenario, start: Simulation(script, ours, scenario, start).run()
        calibration = Calibration()

        def run(script: Script, scenario: Scenario, start: float) -> Figures:
            session = SessionCalibration({False: calibration, True: calibration})
            batcher = Planner(ours.batcher).batcher()
            policies = Policies(ours.trigger.make(), batcher, session, calibrator=session)
            return Simulation(script, ours, scenario, start, policies=policies).run()

        return run


def _geometric(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(first * (last / first) ** (i / (count - 1)) for i in range(count))


def _thresholds(first: float, last: float, count: int) -> tuple[float, ...]:
    """Between these, in nats."""
    return tuple(math.exp(-x) for x in _geometric(first, last, count))


def entries() -> list[Entry]:
    """All triggers with all confidences that they look at."""
    token = _thresholds(0.02, 3.0, SETTINGS)
    pairs = (*itertools.product((0.0, *_thresholds(0.3, 3.0, 3)), _thresholds(0.1, 2.0, SETTINGS // 4)),)
    adapted = (*itertools.product(_thresholds(0.05, 2.5, SETTINGS // 4), (0.1, 0.3, 0.5, 0.8)),)
    found = [Entry("fixed", "", tuple(FixedSettings(length=n) for n in range(1, SETTINGS + 1)))]
    for confidence in CONFIDENCES:
        found += [
            Entry("token", confidence, tuple(TokenSettings(r2=r2) for r2 in token)),
            Entry(
                "sequence",
                confidence,
                tuple(SequenceSettings(r1=r1, decay=decay) for r1, decay in adapted),
            ),
            Entry("dual", confidence, tuple(DualSettings(r1=r1, r2=r2) for r1, r2 in pairs)),
        ]
    heights = _geometric(0.1, 1.4, SETTINGS)
    found.append(Entry("svip", "", tuple(SvipSettings(h=h) for h in heights)))
    bounds = (i / SETTINGS for i in range(SETTINGS))
    found.append(Entry("adaedl", "", tuple(AdaEdlSettings(bound=bound) for bound in bounds)))
    return found


def names() -> list[str]:
    return [entry.name for entry in entries()]


def _steps(figures: Figures) -> float:
    return figures.forwards / figures.tokens


def mixed(one: Figures, other: Figures, budget: float) -> tuple[float, float]:
    """(share of `one`, TPT) of a mixture of two runs that takes `budget` steps a token; beyond, the line goes on."""
    gap = _steps(one) - _steps(other)
    share = (budget - _steps(other)) / gap if gap else 1.0
    return share, share * one.tpt_ms + (1 - share) * other.tpt_ms


def best_pair(played: Sequence[Figures], budget: float) -> tuple[int, int]:
    """The two, `APART`, whose mixture is fastest at the budget: one with at most as many steps as that, one with at
    least. Where there are none on one side, the nearest and another; where none are apart, the furthest."""
    steps = [_steps(figures) for figures in played]
    pairs = [(i, j) for i, one in enumerate(steps) for j, other in enumerate(steps) if other - one >= APART]
    if not pairs:
        return steps.index(min(steps)), steps.index(max(steps))
    around = [(i, j) for i, j in pairs if steps[i] <= budget <= steps[j]]
    if not around:
        return min(pairs, key=lambda pair: min(abs(steps[i] - budget) for i in pair))
    return min(around, key=lambda pair: mixed(played[pair[0]], played[pair[1]], budget)[1])


def run_entry(entry: Entry, workload: Workload, as_recorded: Workload) -> dict[str, Any]:
    """One row. workload: with the entry's confidence; as_recorded: with the drafter's, which PipeSD is played with."""

    def played(settings: TriggerSettings, scripts: Sequence[Script]) -> Figures:
        return play(entry.runner(settings), scripts, SCENARIO)

    tuning = [played(settings, workload.tuning) for settings in entry.settings]
    found = []
    for part in BUDGETS:
        budgets = [as_recorded.published(SCENARIO, report=report) for report in (False, True)]
        to_tune, to_report = (part * figures.navs / figures.tokens for figures in budgets)
        pair = best_pair(tuning, to_tune)
        one, other = (played(entry.settings[i], workload.report) for i in pair)
        share, tpt_ms = mixed(one, other, to_report)
        navs = share * one.navs / one.tokens + (1 - share) * other.navs / other.tokens
        found.append(
            {
                "tpt_ms": tpt_ms,
                "navs_per_token": navs,
                "forwards_per_token": to_report,
                "share": share,
                "settings": [msgspec.to_builtins(entry.settings[i]) for i in pair],
            }
        )
    return {
        "workload": workload.name,
        "scenario": SCENARIO.name,
        "method": entry.name,
        "payload": "ids",
        "at": found,
        **{key: found[-1][key] for key in ("tpt_ms", "navs_per_token", "forwards_per_token")},
    }


def run_all(wanted: Callable[[str, str, str], bool] = lambda *_: True) -> Iterator[dict[str, Any]]:
    """All rows whose (workload, scenario, method) is wanted."""
    budget = Budget(tokens=TUNING_TOKENS)
    for name in NAMES:
        table = recorded(name, 1.0)
        by_confidence = {kind: Workload.of(with_probability(table, kind), budget) for kind in KINDS}
        as_recorded = Workload.of(table, budget)
        for entry in entries():
            if wanted(table.name, SCENARIO.name, entry.name):
                yield run_entry(entry, by_confidence.get(entry.confidence, as_recorded), as_recorded)


def section(cells: dict[tuple[str, str, str], dict[str, Any]]) -> str:
    """The table of docs/benchmarks.md, from rows by (workload, scenario, method)."""
    body = []
    steps: dict[tuple[str, int], str] = {}
    for entry in entries():
        line = [f"`{entry.kind}`", CONFIDENCES.get(entry.confidence, "")]
        for name in NAMES:
            row = cells.get((f"{name}-t1", SCENARIO.name, entry.name))
            for number in range(len(BUDGETS)):
                at = None if row is None else row["at"][number]
                out_of_reach = at is not None and not -FAR <= at["share"] <= 1 + FAR
                line.append("" if at is None else "out of reach" if out_of_reach else f"{at['tpt_ms']:.1f}")
                if at is not None:
                    steps[name, number] = f"{at['forwards_per_token']:.3f}"
        if any(line[2:]):
            body.append(line)
    head = [
        f"{SCENARIO.name}: TPT, ms, {name}, at {steps.get((name, number), '')}"
        for name in NAMES
        for number in range(len(BUDGETS))
    ]
    return markdown(["trigger", "confidence", *head], body, left=2) if body else ""
