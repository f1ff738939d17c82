"""A made-up world for the tuner: texts, what they cost, and a search without skopt."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts, replay
from pipesd_agent.tuning.search import Point, SearchResult, SearchTask, search
from pipesd_agent.tuning.tuner import STRETCH, Stretch, Tuner

COSTS = PipelineCosts(0.03, 0.025, 0.006)
START = Pair(0.1, 0.2)
WINDOW = 16
TASK = SearchTask((Judged(0.9, right=True),) * 40, COSTS, WINDOW, "planned", 0.0, (), {}, 1)


def text(tokens: int, rng: random.Random) -> tuple[Judged, ...]:
    found = []
    for _ in range(tokens):
        confidence = math.exp(-rng.lognormvariate(-4, 1.8))
        right = rng.random() < confidence
        found.append(Judged(confidence, right, () if right else tuple(rng.random() for _ in range(5))))
    return tuple(found)


class Anywhere:
    """Asks for points at random."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        pass

    def ask(self) -> Point:
        return self._rng.random(), self._rng.random()


class FakeProposer:
    """A proposer that hands results over when it is let."""

    def __init__(self, *, slow: bool = False) -> None:
        self.failed = ""
        self.slow = slow
        self.tasks: list[SearchTask] = []
        self.cpu_s = 0.01
        self._done: SearchResult | None = None

    def submit(self, task: SearchTask) -> bool:
        if self.failed or self._done is not None:
            return False
        self.tasks.append(task)
        done = search(task, Anywhere(task.seed))
        self._done = SearchResult(done.replayed, self.cpu_s)
        return True

    def result(self) -> SearchResult | None:
        if self.slow:
            return None
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self.failed = "closed"


def truth(pair: Pair, costs: PipelineCosts = COSTS) -> float:
    """Seconds per token of a long text."""
    return replay(text(4000, random.Random(99)), pair, costs, WINDOW).per_token(0.0)


def write(
    tuner: Tuner,
    tokens: int,
    rng: random.Random,
    *,
    costs: PipelineCosts = COSTS,
    wrong: Callable[[Pair], float] = lambda _: 1.0,
    noise: float = 0.03,
) -> None:
    """Answers of `tokens` tokens in all. wrong: by what a replay with this pair has to be multiplied."""
    for _ in range(0, tokens, STRETCH):
        pair, some = tuner.thresholds.pair, text(STRETCH, rng)
        cost = replay(some, pair, costs, WINDOW)
        seconds = cost.seconds / cost.tokens * STRETCH * wrong(pair) * math.exp(rng.gauss(0, noise))
        tuner.stretch(Stretch(pair, STRETCH, seconds, max(1, round(cost.verifications / cost.tokens * STRETCH)), some))
