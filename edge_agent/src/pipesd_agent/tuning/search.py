"""One look for better thresholds: an optimizer's of what the recorded text would have cost (architecture §6).

Pure: recorded text and costs in, rehearsed costs of the pairs looked at out. `background` has it done elsewhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from pipesd_agent.tuning.replay import Costs, Judged, Pair, Upload, rehearse

CHUNK: Final = 128
"""Judged drafts that are rehearsed by themselves: how much the chunks differ says how sure their mean is."""
LEAST_NATS, MOST_NATS = 0.005, 6.0
"""Of -ln(r1); 6 is as good as no sequence threshold."""
LEAST_SHARE: Final = 0.02
"""Of -ln(r2) in -ln(r1); at 1 the token threshold says nothing that the other has not said."""
GRID_NATS: Final = (0.02, 0.1, 0.4, 1.2, 3.0)
GRID_SHARES: Final = (0.15, 0.5, 1.0)
ASKS: Final = 5
KEPT: Final = 6
"""Best pairs that a study tells of, besides those that it was asked about."""

Point = tuple[float, float]
"""Of the unit square."""


class Optimizer(Protocol):
    """Minimises over the unit square; skopt's interface, as far as it is used."""

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        """What was found there."""

    def ask(self) -> Point:
        """Where to look next."""


class Proposer(Protocol):
    """Does one study at a time."""

    failed: str
    """What broke it for good; empty: nothing."""

    def submit(self, task: Task) -> bool:
        """Begin a study. False: it has one, or has failed."""

    def result(self) -> Studied | None:
        """The study that was done since the last call; None: there is none."""

    def close(self) -> None:
        """No more studies."""


MakeOptimizer = Callable[[int], Optimizer]
"""From a seed."""


def to_pair(point: Point) -> Pair:
    """Logarithmic in how unsure the drafter may become."""
    nats = LEAST_NATS * (MOST_NATS / LEAST_NATS) ** point[0]
    share = LEAST_SHARE ** (1 - point[1])
    return Pair(math.exp(-nats), math.exp(-nats * share))


def to_point(pair: Pair) -> Point:
    """The inverse, for any pair: what lies outside of the square is moved to its edge."""
    nats = min(max(_nats(pair.r1), LEAST_NATS), MOST_NATS)
    share = min(max(_nats(pair.r2) / nats, LEAST_SHARE), 1.0)
    x = math.log(nats / LEAST_NATS) / math.log(MOST_NATS / LEAST_NATS)
    return min(max(x, 0.0), 1.0), min(max(1 - math.log(share) / math.log(LEAST_SHARE), 0.0), 1.0)


def _nats(r: float) -> float:
    return -math.log(r) if r > 0 else MOST_NATS


GRID: Final = tuple(Pair(math.exp(-nats), math.exp(-nats * share)) for nats in GRID_NATS for share in GRID_SHARES)


class Task(Struct, frozen=True):
    """text: at least one judged draft. pairs: to be told of in any case. biases: natural logarithms of what pairs were
    measured at over what was rehearsed, for those that were measured. price_s: of a NAV."""

    text: tuple[Judged, ...]
    costs: Costs
    window: int
    upload: Upload
    price_s: float
    pairs: tuple[Pair, ...]
    biases: dict[Pair, float]
    seed: int


class Studied(Struct, frozen=True):
    """rehearsed: the objective in each chunk of the text, by pair. cpu_s: that it took, where known."""

    rehearsed: dict[Pair, tuple[float, ...]]
    cpu_s: float = 0.0


def study(task: Task, optimizer: Optimizer, asks: int = ASKS) -> Studied:
    """Rehearse a grid, then where the optimizer expects something better, `asks` times."""
    size = max(1, round(len(task.text) / CHUNK))
    step = math.ceil(len(task.text) / size)
    chunks = [task.text[at : at + step] for at in range(0, len(task.text), step)]
    found: dict[Pair, tuple[float, ...]] = {}

    def look(pair: Pair) -> float:
        if pair not in found:
            spent = (rehearse(chunk, pair, task.costs, task.window, task.upload) for chunk in chunks)
            found[pair] = tuple(one.each(task.price_s) for one in spent)
        return math.log(statistics.fmean(found[pair])) + task.biases.get(pair, 0.0)

    known = dict.fromkeys((*task.pairs, *GRID))
    values = [look(pair) for pair in known]
    # In standard deviations of what the grid has, so that the optimizer's margins mean the same whatever a token costs.
    middle, spread = statistics.fmean(values), statistics.pstdev(values) or 1.0
    optimizer.tell([to_point(pair) for pair in known], [(value - middle) / spread for value in values])
    for turn in range(asks):
        point = optimizer.ask()
        value = look(to_pair(point))
        if turn < asks - 1:
            optimizer.tell([point], [(value - middle) / spread])
    best = sorted(found, key=look)[:KEPT]
    return Studied({pair: found[pair] for pair in dict.fromkeys((*task.pairs, *best))})
