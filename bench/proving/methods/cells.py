"""Cells: a method in a scenario on a workload, tuned on one half of its answers and reported on the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.proving.methods import causal
from bench.proving.methods.bounds import clairvoyant
from bench.proving.methods.contenders import CONTENDERS, PUBLISHED, Contender, play
from bench.proving.methods.search import Point, search
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.scenario import LONG, NARROW, Scenario
from bench.proving.simulator.script import Script
from bench.proving.traces.table import Table

INFEASIBLE_MS: Final = 1e6
MARGIN: Final = 0.96
"""Tuning keeps to this share of the cap, so that what is reported, on other answers, does not exceed it."""


@dataclass(frozen=True)
class Budget:
    """trials: of each method's tuning. tokens: of each trial. report_tokens: of the answers reported. search: trials of
    each family that the best causal policy is searched among, or a part of them (`causal.Family.share`)."""

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
    _tuned: dict[tuple[str, str], Point] = field(default_factory=dict)
    _reported: dict[tuple[str, str], Figures] = field(default_factory=dict)

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

    def tuned(self, contender: Contender, scenario: Scenario, budget: Budget) -> Point:
        """On the one half of the answers; once."""
        key = scenario.name, contender.name
        if key not in self._tuned:
            cap = self.published(scenario, report=False)
            self._tuned[key] = tune(contender, self.tuning, scenario, cap, budget.trials, MARGIN)
        return self._tuned[key]

    def reported(self, contender: Contender, scenario: Scenario, budget: Budget) -> Figures:
        """On the other half; once."""
        key = scenario.name, contender.name
        if key not in self._reported:
            point = self.tuned(contender, scenario, budget)
            self._reported[key] = play(contender.make(*point), self.report, scenario)
        return self._reported[key]


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
    """The best point found. A trial ends as soon as it is over its cap for all answers, or slower than the best."""
    if not contender.axes:
        return ()
    tokens = sum(map(len, scripts))
    most = math.inf if contender.cap == "none" else cap.navs / cap.tokens * share * tokens
    best_ms = INFEASIBLE_MS

    def lost(sums: Figures) -> bool:
        over = contender.cap != "none" and getattr(sums, contender.cap) > most
        return over or 1000 * sums.seconds > best_ms * tokens

    def trial(point: Point) -> float:
        nonlocal best_ms
        value = cost(play(contender.make(*point), scripts, scenario, lost), contender, cap, share)
        best_ms = min(best_ms, value)
        return value

    return search(trial, contender.axes, trials, contender.first)[0]


def run_cell(contender: Contender, scenario: Scenario, workload: Workload, budget: Budget) -> dict[str, Any]:
    """One row of the report."""
    point = workload.tuned(contender, scenario, budget)
    return _row(contender, scenario, workload, workload.reported(contender, scenario, budget), list(point))


def _row(
    contender: Contender, scenario: Scenario, workload: Workload, figures: Figures, parameters: list[object]
) -> dict[str, Any]:
    bound = workload.published(scenario, report=True)
    return {
        "workload": workload.name,
        "scenario": scenario.name,
        "method": contender.name,
        "payload": contender.payload,
        "cap": contender.cap,
        "within_cap": cost(figures, contender, bound) < INFEASIBLE_MS,
        "parameters": parameters,
        **figures.row(),
    }


def run_best_causal(scenario: Scenario, workload: Workload, budget: Budget) -> dict[str, Any]:
    """The fastest within the cap of forwards of all that is causal and sends ids only: what each family's search found
    on the reported answers themselves, and every contender as it was tuned. families: TPT in ms of the best of each
    that keeps to the cap."""
    capped = Contender(causal.NAME, lambda: lambda *_: Figures(), cap="forwards")
    bound = workload.published(scenario, report=True)
    found: list[tuple[float, list[object], Figures]] = []

    def candidate(name: str, point: Point, figures: Figures) -> None:
        found.append((cost(figures, capped, bound), [name, *point], figures))

    for contender in CONTENDERS:
        if contender.payload == "ids" and contender.name not in causal.NOT_CAUSAL:
            point = workload.tuned(contender, scenario, budget)
            candidate(contender.name, point, workload.reported(contender, scenario, budget))
    by_name = {contender.name: contender for contender in CONTENDERS}
    for family in causal.FAMILIES:
        if family.entropies and not all(script.knows_entropy for script in workload.report):
            continue
        contender = family.contender
        if family.as_tuned:
            contender = replace(contender, first=workload.tuned(by_name[family.as_tuned], scenario, budget))
        trials = max(2, round(budget.search * family.share))
        point = tune(contender, workload.report, scenario, bound, trials, 1.0)
        candidate(contender.name, point, play(contender.make(*point), workload.report, scenario))
    _, parameters, figures = min(found, key=lambda one: one[0])
    families: dict[str, float] = {}
    for tpt_ms, (name, *_), _ in found:
        if tpt_ms < INFEASIBLE_MS:
            families[str(name)] = round(min(tpt_ms, families.get(str(name), tpt_ms)), 3)
    return _row(capped, scenario, workload, figures, parameters) | {"families": families}


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
    return [*(contender.name for contender in CONTENDERS), causal.NAME, "clairvoyant", "clairvoyant-runs"]


def run_all(
    workload: Workload, scenarios: Sequence[Scenario], budget: Budget, methods: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of a workload."""
    for scenario in scenarios:
        for contender in CONTENDERS:
            padded_for_nothing = contender.payload == "paper" and scenario in (*NARROW, *LONG)
            if (methods is None and not padded_for_nothing) or (methods is not None and contender.name in methods):
                yield run_cell(contender, scenario, workload, budget)
        if methods is None or causal.NAME in methods:
            yield run_best_causal(scenario, workload, budget)
        for runs in (False, True):
            if methods is None or ("clairvoyant-runs" if runs else "clairvoyant") in methods:
                yield run_bound(scenario, workload, runs=runs)
