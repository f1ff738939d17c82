"""One search for better thresholds: minimise what the recorded text would have cost (architecture §6, tuner).

Pure: recorded text and costs in, replayed costs of the pairs tried out. `background` has it done elsewhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts, UploadStrategy, replay

CHUNK: Final = 128
"""Judged drafts that are replayed by themselves: how much the chunks differ says how accurate their mean is."""
LEAST_NATS, MOST_NATS = 0.005, 6.0
"""Bounds of -ln(r1); 6 is as good as no sequence threshold."""
LEAST_SHARE: Final = 0.02
"""Least ratio of -ln(r2) to -ln(r1); at 1 the token threshold never triggers before the other one."""
GRID_NATS: Final = (0.02, 0.1, 0.4, 1.2, 3.0)
GRID_SHARES: Final = (0.15, 0.5, 1.0)
ASKS: Final = 5
"""Pairs that the optimizer may ask for after the grid."""
KEPT: Final = 6
"""Best pairs of a result, besides those that the task names."""

Point = tuple[float, float]
"""A point of the unit square."""


class Optimizer(Protocol):
    """Minimises over the unit square; skopt's interface, as far as it is used."""

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        """Take note of the values found at these points."""

    def ask(self) -> Point:
        """The point to evaluate next."""


class Proposer(Protocol):
    """Carries out one search at a time."""

    failed: str
    """Why it carries out none any more; empty: it does."""

    def submit(self, task: SearchTask) -> bool:
        """Begin a search. False: one is under way, or the proposer has failed."""

    def result(self) -> SearchResult | None:
        """The result of the search that was completed since the last call; None: there is none."""

    def close(self) -> None:
        """End: no more searches."""


MakeOptimizer = Callable[[int], Optimizer]
"""Makes an optimizer from a seed."""


def to_pair(point: Point) -> Pair:
    """The pair at a point of the unit square; logarithmic in -ln(r1)."""
    nats = LEAST_NATS * (MOST_NATS / LEAST_NATS) ** point[0]
    share = LEAST_SHARE ** (1 - point[1])
    return Pair(math.exp(-nats), math.exp(-nats * share))


def to_point(pair: Pair) -> Point:
    """The point of a pair, the inverse of `to_pair`; what lies outside of the square is moved to its edge."""
    nats = min(max(_nats(pair.r1), LEAST_NATS), MOST_NATS)
    share = min(max(_nats(pair.r2) / nats, LEAST_SHARE), 1.0)
    x = math.log(nats / LEAST_NATS) / math.log(MOST_NATS / LEAST_NATS)
    return min(max(x, 0.0), 1.0), min(max(1 - math.log(share) / math.log(LEAST_SHARE), 0.0), 1.0)


def _nats(r: float) -> float:
    return -math.log(r) if r > 0 else MOST_NATS


GRID: Final = tuple(Pair(math.exp(-nats), math.exp(-nats * share)) for nats in GRID_NATS for share in GRID_SHARES)


class SearchTask(Struct, frozen=True):
    """A search to carry out.

    text: at least one judged draft. pairs: evaluated in any case. biases: ln(measured / replayed cost) of the pairs
    that were measured. verification_cost_s: what each verification counts for in the objective, in seconds.
    """

    text: tuple[Judged, ...]
    costs: PipelineCosts
    window: int
    upload: UploadStrategy
    verification_cost_s: float
    pairs: tuple[Pair, ...]
    biases: dict[Pair, float]
    seed: int


class SearchResult(Struct, frozen=True):
    """The result of a search. replayed: the objective in each chunk of the text, by pair. cpu_s: CPU time, if known."""

    replayed: dict[Pair, tuple[float, ...]]
    cpu_s: float = 0.0


def search(task: SearchTask, optimizer: Optimizer, asks: int = ASKS) -> SearchResult:
    """Replay the text with a grid of pairs, then with `asks` pairs at which the optimizer expects something better."""
    size = max(1, round(len(task.text) / CHUNK))
    step = math.ceil(len(task.text) / size)
    chunks = [task.text[at : at + step] for at in range(0, len(task.text), step)]
    found: dict[Pair, tuple[float, ...]] = {}

    def evaluate(pair: Pair) -> float:
        if pair not in found:
            costs = (replay(chunk, pair, task.costs, task.window, task.upload) for chunk in chunks)
            found[pair] = tuple(cost.per_token(task.verification_cost_s) for cost in costs)
        return math.log(statistics.fmean(found[pair])) + task.biases.get(pair, 0.0)

    known = dict.fromkeys((*task.pairs, *GRID))
    values = [evaluate(pair) for pair in known]
    # In standard deviations of what the grid has, so that the optimizer's margins mean the same whatever a token costs.
    middle, spread = statistics.fmean(values), statistics.pstdev(values) or 1.0
    optimizer.tell([to_point(pair) for pair in known], [(value - middle) / spread for value in values])
    for turn in range(asks):
        point = optimizer.ask()
        value = evaluate(to_pair(point))
        if turn < asks - 1:
            optimizer.tell([point], [(value - middle) / spread])
    best = sorted(found, key=evaluate)[:KEPT]
    return SearchResult({pair: found[pair] for pair in dict.fromkeys((*task.pairs, *best))})
