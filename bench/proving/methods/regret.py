"""The tuner against other ways of finding thresholds, under equal budgets of tokens (virtual time).

`python -m bench.proving.methods.regret [--quick] [--out DIR]` writes DIR/regret.jsonl, a row for each method, setting
and seed.

Every seed shuffles the answers of a table and goes through them again and again; whoever tunes pays for what it tries.
A pair's *regret* is by how much its objective on the whole table is above that of the best fixed pair of a grid. The
costs that the tuner is told are off by some 10 %, as the monitor's may be.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.proving.methods.cells import take
from bench.proving.methods.contenders import R1, R2, SPACING_S
from bench.proving.simulator.figures import Figures
from bench.proving.simulator.inline import Inline
from bench.proving.simulator.scenario import FAST_EDGE, LAPTOP, PAPER, Scenario
from bench.proving.simulator.simulation import Ours, Simulation
from bench.proving.traces.all_tables import made_up, tables
from bench.proving.traces.table import Table
from pipesd_agent.control.batchers import Immediate
from pipesd_agent.control.triggers import DualSettings, DualThreshold
from pipesd_agent.session.policies import Policies
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.tuning.optimizers.gaussian_process import Skopt, make_skopt
from pipesd_agent.tuning.recorder import DraftRecorder
from pipesd_agent.tuning.replay import Pair, PipelineCosts
from pipesd_agent.tuning.search import MakeOptimizer
from pipesd_agent.tuning.tuner import Tuner

SEEDS: Final = 20
BUDGET: Final = 5_000
"""Output tokens after which the methods are compared."""
LONG: Final = 50_000
"""Of the tuner only: what exploring has cost by then."""
LONG_SEEDS: Final = 3
PRICE_MS: Final = 20.0
"""Of a NAV."""
CHECKS: Final = (250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 10_000, 20_000, 50_000)
TOKENS: Final = 4_096
"""Of different answers, at most."""
TRIALS: Final = 16
"""Pairs that grid, random and plain Bayesian optimisation try: the paper's number."""
ENOUGH: Final = 0.8
"""Of a trial's tokens; answers are whole."""
OFF: Final = 0.1
"""Standard deviation of the logarithm of what the tuner is told that things cost."""
DEFAULT: Final = Pair(DualSettings().r1, DualSettings().r2)
PUBLISHED: Final = Pair(0.9, 0.3514)
"""The reproduction's, for code."""
SESSION: Final = SessionSettings(free_start=1)


@dataclass(frozen=True)
class Setting:
    """price_ms: of a NAV."""

    table: Table
    scenario: Scenario
    price_ms: float = 0.0


class Ground:
    """A setting, with what fixed pairs cost on each answer played once only."""

    def __init__(self, setting: Setting, tokens: int = TOKENS) -> None:
        self.setting = setting
        self.scripts = take(setting.table, tokens)
        self._played: dict[Pair, list[float | None]] = {}
        grid = (Pair(r1, r2) for r1 in R1 for r2 in R2 if r2 > r1 or r2 == 0)
        self.best = min(grid, key=self.whole)

    def start(self, number: int) -> float:
        return SPACING_S * number

    def cost(self, figures: Figures) -> float:
        """Seconds, NAVs as well."""
        return figures.seconds + self.setting.price_ms / 1000 * figures.navs

    def answer(self, number: int, pair: Pair) -> float:
        """Cost of this answer with a fixed pair."""
        played = self._played.setdefault(pair, [None] * len(self.scripts))
        known = played[number]
        if known is None:
            ours = Ours(DualSettings(r1=pair.r1, r2=pair.r2), SESSION)
            place = self.scripts[number], ours, self.setting.scenario, self.start(number)
            known = played[number] = self.cost(Simulation(*place).run())
        return known

    def whole(self, pair: Pair) -> float:
        """Cost per token of all answers."""
        return sum(self.answer(i, pair) for i in range(len(self.scripts))) / sum(map(len, self.scripts))

    def regret(self, pair: Pair) -> float:
        return self.whole(pair) / self.whole(self.best) - 1

    def order(self, seed: int) -> Iterator[int]:
        """Of the answers, without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield from rng.permutation(len(self.scripts)).tolist()


class Curve:
    """One run of one method. At each check: the regret of the pair that it would settle for, and of all that was spent
    so far (over the best pair on the same answers)."""

    def __init__(self, ground: Ground, tokens: int) -> None:
        self._ground = ground
        self._last = tokens
        self.tokens = 0
        self._spent = self._best = 0.0
        self.checks: list[int] = []
        self.simple: list[float] = []
        self.cumulative: list[float] = []

    @property
    def done(self) -> bool:
        return self.tokens >= self._last

    def add(self, number: int, cost: float, settled: Pair) -> None:
        """An answer was written; settled: what the method would choose now."""
        self.tokens += len(self._ground.scripts[number])
        self._spent += cost
        self._best += self._ground.answer(number, self._ground.best)
        while (
            len(self.checks) < len(CHECKS)
            and CHECKS[len(self.checks)] <= self._last
            and self.tokens >= CHECKS[len(self.checks)]
        ):
            self.checks.append(CHECKS[len(self.checks)])
            self.simple.append(self._ground.regret(settled))
            self.cumulative.append(self._spent / self._best - 1)


def tuned(ground: Ground, seed: int, tokens: int, make: MakeOptimizer = make_skopt) -> tuple[Curve, dict[str, Any]]:
    """Ours. Also: what trials cost beyond the incumbent, of all that was spent: as the tuner has it, and in truth."""
    scenario = ground.setting.scenario
    rng = np.random.default_rng((seed, 1))
    off = np.exp(OFF * rng.standard_normal(4)).tolist()
    rate = scenario.up.at(0)
    costs = PipelineCosts(
        scenario.draft_s * off[0],
        2 * scenario.delay_s * off[1],
        (scenario.queue_s + scenario.forward.base_s) * off[2],
        scenario.forward.row_s * off[2],
        8 * (scenario.overhead_up + 12) / rate * off[3],
        16 / rate * off[3],
    )
    price_s = ground.setting.price_ms / 1000
    tuner = Tuner(
        DEFAULT, Inline(make), window=SESSION.window, upload="immediate", verification_cost_s=price_s, seed=seed
    )
    tuner.costs(costs)
    curve = Curve(ground, tokens)
    spent = explored = 0.0
    for number in ground.order(seed):
        trigger = DualThreshold(tuner.thresholds)
        policies = Policies(trigger, Immediate(), DraftRecorder({False: tuner, True: tuner}, trigger))
        before, exploring = tuner.incumbent, tuner.trying
        place = ground.scripts[number], Ours(session=SESSION), scenario, ground.start(number)
        cost = ground.cost(Simulation(*place, policies=policies).run())
        spent += cost
        if exploring or tuner.trying:
            explored += cost - ground.answer(number, before)
        curve.add(number, cost, tuner.incumbent)
        if curve.done:
            break
    figures = tuner.figures()
    more = {
        "explored": figures.explored_s / figures.spent_s,
        "explored_in_truth": explored / spent,
        "studies": figures.searches,
        "trials": figures.trials,
        "changes": figures.changes,
        "study_cpu_s": figures.search_cpu_s,
        "pair": [figures.incumbent.r1, figures.incumbent.r2],
    }
    return curve, more


def fixed(pair: Pair) -> Callable[[Ground, int, int], Curve]:
    """Never changes."""

    def run(ground: Ground, seed: int, tokens: int) -> Curve:
        curve = Curve(ground, tokens)
        for number in ground.order(seed):
            curve.add(number, ground.answer(number, pair), pair)
            if curve.done:
                break
        return curve

    return run


class Search:
    """Tries one pair after the other, each on as many tokens, and settles for the one that came out best."""

    def __init__(self, each: int, propose: Callable[[int], Iterator[Pair]], told: Callable[[float], None]) -> None:
        self._each = each
        self._propose = propose
        self._told = told

    def __call__(self, ground: Ground, seed: int, tokens: int) -> Curve:
        curve = Curve(ground, tokens)
        best, least = DEFAULT, math.inf
        order = ground.order(seed)
        for pair in self._propose(seed):
            written = cost = 0.0
            while written < ENOUGH * self._each:
                number = next(order)
                paid = ground.answer(number, pair)
                written += len(ground.scripts[number])
                cost += paid
                curve.add(number, paid, best)
            self._told(1000 * cost / written)
            if cost / written < least:
                best, least = pair, cost / written
            if curve.done:
                break
        while not curve.done:
            number = next(order)
            curve.add(number, ground.answer(number, best), best)
        return curve


def grid(each: int) -> Search:
    """4 x 4, over the thresholds that make a difference, in an order of its own for each seed."""

    def propose(seed: int) -> Iterator[Pair]:
        pairs = [Pair(r1, r2) for r1 in R1[1:8:2] for r2 in R2[1:8:2]]
        for i in np.random.default_rng((seed, 2)).permutation(len(pairs)):
            yield pairs[i]

    return Search(each, propose, lambda _: None)


def random(each: int) -> Search:
    """Uniform."""

    def propose(seed: int) -> Iterator[Pair]:
        for r1, r2 in np.random.default_rng((seed, 3)).random((TRIALS, 2)):
            yield Pair(float(r1), float(r2))

    return Search(each, propose, lambda _: None)


def plain_bo(each: int) -> Search:
    """As the paper has it: EI with xi = 0.1 (ms) over the unit square, one random point first, 16 trials."""
    values: list[float] = []

    def propose(seed: int) -> Iterator[Pair]:
        optimizer = Skopt(seed)
        for _ in range(TRIALS):
            point = optimizer.ask()
            yield Pair(*point)
            optimizer.tell([point], [values[-1]])

    return Search(each, propose, values.append)


def rivals() -> dict[str, Callable[[Ground, int, int], Curve]]:
    """By name."""
    each = BUDGET // TRIALS
    return {
        "default": fixed(DEFAULT),
        "published": fixed(PUBLISHED),
        "grid": grid(each),
        "random": random(each),
        "BO": plain_bo(each),
        "BO, one answer": plain_bo(1),
    }


def settings(tables: Sequence[Table], made: Table) -> list[Setting]:
    """Scenario 1 on all tables, with a price for a NAV; on the made-up one also without a price and on a varying link,
    and on the last one on a fast device."""
    return [
        *(Setting(table, LAPTOP, PRICE_MS) for table in tables),
        Setting(made, LAPTOP),
        Setting(made, PAPER[3], PRICE_MS),
        Setting(tables[-1], FAST_EDGE, PRICE_MS),
    ]


def row(ground: Ground, method: str, seed: int, curve: Curve, more: dict[str, Any]) -> dict[str, Any]:
    setting = ground.setting
    return {
        "workload": setting.table.name,
        "scenario": setting.scenario.name,
        "price_ms": setting.price_ms,
        "method": method,
        "seed": seed,
        "best": [ground.best.r1, ground.best.r2],
        "checks": curve.checks,
        "simple": curve.simple,
        "cumulative": curve.cumulative,
        **more,
    }


def run_all(
    some: Sequence[Setting], seeds: int = SEEDS, tokens: int = LONG, make: MakeOptimizer = make_skopt
) -> Iterator[dict[str, Any]]:
    """A row for each setting, method and seed."""
    for setting in some:
        ground = Ground(setting)
        for seed in range(seeds):
            curve, more = tuned(ground, seed, tokens if seed < LONG_SEEDS else min(tokens, BUDGET), make)
            yield row(ground, "ours", seed, curve, more)
        for name, run in rivals().items():
            for seed in range(seeds):
                yield row(ground, name, seed, run(ground, seed, min(tokens, BUDGET)), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one setting, two seeds, 5,000 tokens")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    made = made_up()
    rows = run_all([Setting(made, LAPTOP, PRICE_MS)], 2, BUDGET) if args.quick else run_all(settings(tables(), made))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "regret.jsonl").open("w") if args.out else sys.stdout as file:
        for one in rows:
            print(json.dumps(one), file=file, flush=True)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
