"""Cells: a method in a scenario on a workload, tuned on one half of its answers and reported on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.proving.bounds import clairvoyant
from bench.proving.figures import Figures
from bench.proving.methods import BEST_CAUSAL, CONTENDERS, PUBLISHED, Contender, play
from bench.proving.scenario import LONG, NARROW, Scenario
from bench.proving.script import Script
from bench.proving.search import Point, search
from bench.proving.trace import Table

INFEASIBLE_MS: Final = 1e6
MARGIN: Final = 0.96
"""Tuning keeps to this share of the cap, so that what is reported, on other answers, does not exceed it."""


@dataclass(frozen=True)
class Budget:
    """trials: of each method's tuning. tokens: of each trial. report_tokens: of the answers reported. search: trials of
    the best causal policy."""

    trials: int = 20
    tokens: int = 1024
    report_tokens: int = 4096
    search: int = 48


QUICK: Final = Budget(trials=12, tokens=512, report_tokens=1024, search=12)


@dataclass
class Workload:
    """Answers of a table, read once. scripts: those that are tuned on, and those reported."""

    name: str
    tuning: list[Script]
    report: list[Script]
    _published: dict[tuple[str, str], Figures] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, budget: Budget) -> Workload:
        tuning, report = table.halves()
        return cls(table.name, take(tuning, budget.tokens), take(report, budget.report_tokens))

    def published(self, scenario: Scenario, *, report: bool) -> Figures:
        """PipeSD as published, whose NAVs per token bound ours."""
        key = scenario.name, "report" if report else "tuning"
        if key not in self._published:
            runner = next(contender for contender in CONTENDERS if contender.name == PUBLISHED).make()
            self._published[key] = play(runner, self.report if report else self.tuning, scenario)
        return self._published[key]


def take(table: Table, tokens: int) -> list[Script]:
    """Whole answers, in order, until there are `tokens`."""
    scripts: list[Script] = []
    for trace in table.traces:
        if sum(map(len, scripts)) >= tokens:
            break
        scripts.append(Script(trace))
    return scripts


def cost(figures: Figures, contender: Contender, cap: Figures, share: float = 1.0) -> float:
    """TPT in ms; far above that where NAVs (or steps) per token exceed `share` of `cap`'s NAVs, the more they do."""
    if contender.cap == "none":
        return figures.tpt_ms
    over = getattr(figures, contender.cap) / figures.tokens - cap.navs / cap.tokens * share
    return figures.tpt_ms if over <= 0 else INFEASIBLE_MS * (1 + over)


def tune(
    contender: Contender, scripts: Sequence[Script], scenario: Scenario, cap: Figures, trials: int, share: float
) -> Point:
    """The best point found."""
    if not contender.axes:
        return ()

    def trial(point: Point) -> float:
        return cost(play(contender.make(*point), scripts, scenario), contender, cap, share)

    return search(trial, contender.axes, trials, contender.first)[0]


def run_cell(contender: Contender, scenario: Scenario, workload: Workload, budget: Budget) -> dict[str, Any]:
    """One row of the report."""
    best_causal = contender is BEST_CAUSAL
    scripts = workload.report if best_causal else workload.tuning
    cap = workload.published(scenario, report=best_causal)
    trials = budget.search if best_causal else budget.trials
    point = tune(contender, scripts, scenario, cap, trials, 1.0 if best_causal else MARGIN)
    figures = play(contender.make(*point), workload.report, scenario)
    bound = workload.published(scenario, report=True)
    return {
        "workload": workload.name,
        "scenario": scenario.name,
        "method": contender.name,
        "payload": contender.payload,
        "cap": contender.cap,
        "within_cap": cost(figures, contender, bound) < INFEASIBLE_MS,
        "parameters": list(point),
        **figures.row(),
    }


def run_bound(scenario: Scenario, workload: Workload, *, runs: bool) -> dict[str, Any]:
    """The clairvoyant schedule, with as many steps of the target as PipeSD as published takes."""
    cap = workload.published(scenario, report=True)
    share = cap.navs / cap.tokens
    total = Figures()
    for script in workload.report:
        seconds = clairvoyant(script, scenario, int(share * len(script)), runs=runs)
        total.add(Figures(answers=1, tokens=len(script), seconds=seconds))
    name = "clairvoyant-runs" if runs else "clairvoyant"
    return {"workload": workload.name, "scenario": scenario.name, "method": name, "tpt_ms": total.tpt_ms}


def names() -> list[str]:
    """Of all methods, bounds included."""
    return [*(contender.name for contender in CONTENDERS), BEST_CAUSAL.name, "clairvoyant", "clairvoyant-runs"]


def run_all(
    workload: Workload, scenarios: Sequence[Scenario], budget: Budget, methods: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a workload."""
    for scenario in scenarios:
        for contender in (*CONTENDERS, BEST_CAUSAL):
            padded_for_nothing = contender.payload == "paper" and scenario in (*NARROW, *LONG)
            if (methods is None and not padded_for_nothing) or (methods is not None and contender.name in methods):
                yield run_cell(contender, scenario, workload, budget)
        for runs in (False, True):
            if methods is None or ("clairvoyant-runs" if runs else "clairvoyant") in methods:
                yield run_bound(scenario, workload, runs=runs)
