"""Finds the thresholds (R1, R2) of the dual trigger while real answers are written (architecture §6).

Three things keep that cheap. Candidates come from a *study*: Bayesian optimisation of what the last judged drafts would
have cost (`replay`), which costs no token. What is measured is divided by what the rehearsal of the very same text
says, so that hard and easy text do not drown the difference, and says of each pair by how much the rehearsal is
wrong. And a pair is tried on real traffic only while it is in doubt, within a budget.

Pure: stretches of answers go in, the pair in force comes out (`thresholds`). `Tuners` is what an agent has.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from pipesd_agent.tuning.replay import Costs, Judged, Pair, Upload, rehearse
from pipesd_agent.tuning.search import Proposer, Studied, Task
from pipesd_agent.tuning.thresholds import Thresholds

log = logging.getLogger(__name__)

RECORD: Final = 1536
"""Judged drafts that are kept."""
RECENT: Final = 384
"""Of them, those that are kept when the text is another."""
STRETCH: Final = 64
"""Output tokens that make one measurement; fewer count for less."""
LEAST: Final = 16
"""Output tokens below which a stretch measures nothing."""
FIRST_STUDY: Final = 128
"""Judged drafts before the first study; each one waits for GROWTH times as many as the one before."""
GROWTH: Final = 2.2
CPU_SHARE: Final = 0.005
"""CPU time of studies after the first, of what drafting takes."""
TRUST: Final = 0.03
"""Standard deviation of what is wrong about the rehearsal of one pair and not about another, in natural logarithms."""
NOISE: Final = 0.05
"""And of a stretch, before there are measurements; worth NOISE_COUNT of them."""
NOISE_COUNT: Final = 4.0
FAR: Final = 4.0
"""Standard deviations beyond which a measurement is taken to be as far only: a link that hung, say."""
GAIN: Final = 0.005
"""Less of an improvement is not worth a trial."""
ADOPT, DROP = 0.9, 0.3
"""Probabilities that a candidate is better than the incumbent."""
TRIAL: Final = 6.0
"""Stretches after which the more probable of the two is taken."""
BUDGET: Final = 0.02
"""What candidates may cost beyond the incumbent, of all that was spent; BEGINNING tokens are lent in advance."""
BEGINNING: Final = 10_000
PAIRS: Final = 12
"""Pairs whose measurements are kept: those that were in force last."""
FORGET: Final = 0.25
"""What measurements still count for after conditions have moved."""


class Stretch(Struct, frozen=True):
    """A part of one answer, written with one pair and without the target running freely. tokens: of the output; 0: only
    the text counts. text: the drafts judged on the way."""

    pair: Pair
    tokens: int
    seconds: float
    navs: int
    text: tuple[Judged, ...]


class TunerFigures(Struct, frozen=True):
    """For /metrics and logs. objective_s: per token as estimated for the pair in force; None: not known yet.
    spent_s, explored_s: of all that was measured, and of that what candidates cost beyond the incumbent."""

    pair: Pair
    incumbent: Pair
    trying: bool
    objective_s: float | None
    tokens: int
    spent_s: float
    explored_s: float
    studies: int
    study_cpu_s: float
    trials: int
    changes: int
    failed: str


@dataclass
class _Measured:
    """Of one pair: weight, mean and sum of squared deviations of ln(measured / rehearsed)."""

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float, weight: float) -> None:
        self.weight += weight
        off = value - self.mean
        self.mean += off * weight / self.weight
        self.squares += weight * off * (value - self.mean)

    def forget(self) -> None:
        self.weight *= FORGET
        self.squares *= FORGET


class Tuner:
    """One per kind of text (greedy or sampled), for all sessions of the agent.

    To be driven: `thresholds` is given to each session's `TunedDual`; `costs` whenever the monitor has new ones (no
    study begins before); `stretch` with what a `recorder.Tape` hands over; `moved` when the monitor says so.

    Args:
        first: in force until there is a better one.
        window: `SessionSettings.window`.
        upload: what the sessions' batcher does.
        price_s: what a NAV is worth, in seconds: the objective is seconds per token + price_s · NAVs per token.
    """

    def __init__(
        self,
        first: Pair,
        proposer: Proposer,
        *,
        window: int,
        upload: Upload = "planned",
        price_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.thresholds = Thresholds(first)
        self.incumbent = first
        self._proposer = proposer
        self._window = window
        self._upload: Upload = upload
        self._price_s = price_s
        self._seed = seed
        self._costs: Costs | None = None
        self._text: deque[Judged] = deque(maxlen=RECORD)
        self._judged = 0
        self._study_at = float(FIRST_STUDY)
        self._wait = float(FIRST_STUDY)
        self._moved_at = 0
        self._asked = False
        self._studied = Studied({})
        self._measured: dict[Pair, _Measured] = {}
        self._dropped: set[Pair] = set()
        self._trial_cost_s = self._trial_weight = 0.0
        self._tokens = self._studies = self._trials = self._changes = 0
        self._drafting_s = self._spent_s = self._explored_s = self._cpu_s = 0.0

    @property
    def trying(self) -> bool:
        return self.thresholds.pair != self.incumbent

    @property
    def good(self) -> Pair | None:
        """The incumbent, if it has been measured enough to begin with it the next time."""
        measured = self._measured.get(self.incumbent)
        return self.incumbent if measured and measured.weight >= TRIAL else None

    def begin_with(self, pair: Pair) -> None:
        """Put a pair in force that was good before."""
        self._end_trial()
        self.incumbent = pair
        self.thresholds.put(pair)

    def costs(self, costs: Costs) -> None:
        """As measured now; cheap."""
        self._costs = costs

    def moved(self, why: str, *, text: bool = False) -> None:
        """Conditions have changed: measurements count for little, and a study is due. text: acceptance is another, so
        that what was recorded counts for little too."""
        log.info("tuner: conditions moved (%s)", why)
        if self._judged - self._moved_at >= FIRST_STUDY:  # else they are still on the move
            for measured in self._measured.values():
                measured.forget()
        self._moved_at = self._judged
        if text:
            self._text = deque(list(self._text)[-RECENT:], maxlen=RECORD)
        self._dropped.clear()
        self._studied = Studied({})
        self._end_trial()
        self._wait = float(FIRST_STUDY)
        self._study_at = self._judged + self._wait * (1.0 if text else 0.0)

    def stretch(self, stretch: Stretch) -> None:
        """A part of an answer is done. Takes some hundred microseconds; studies are the proposer's."""
        self._text.extend(stretch.text)
        self._judged += len(stretch.text)
        if self._costs is not None:
            self._drafting_s += self._costs.draft_s * len(stretch.text)
            if stretch.tokens >= LEAST and stretch.text and stretch.seconds > 0:
                self._measure(stretch, self._costs)
        self._take_study()
        self._decide()
        self._ask()

    def figures(self) -> TunerFigures:
        pair = self.thresholds.pair
        rehearsed = self._studied.rehearsed.get(pair)
        objective = statistics.fmean(rehearsed) * math.exp(self._bias(pair)[0]) if rehearsed else None
        return TunerFigures(
            pair,
            self.incumbent,
            self.trying,
            objective,
            self._tokens,
            self._spent_s,
            self._explored_s + max(0.0, self._trial_cost_s),
            self._studies,
            self._cpu_s,
            self._trials,
            self._changes,
            self._proposer.failed,
        )

    # Measuring.

    def _measure(self, stretch: Stretch, costs: Costs) -> None:
        each = (stretch.seconds + self._price_s * stretch.navs) / stretch.tokens
        rehearsed = self._rehearsed(stretch, stretch.pair, costs)
        self._tokens += stretch.tokens
        self._spent_s += each * stretch.tokens
        weight = stretch.tokens / STRETCH
        value = math.log(each / rehearsed)
        if self._measured:
            middle, far = (
                self._bias(stretch.pair)[0],
                FAR * math.hypot(self._noise() / math.sqrt(weight), self._trust()),
            )
            value = min(max(value, middle - far), middle + far)
        measured = self._measured.pop(stretch.pair, None) or _Measured()
        measured.add(value, weight)
        self._measured[stretch.pair] = measured  # the last one now
        if len(self._measured) > PAIRS:
            del self._measured[next(pair for pair in self._measured if pair != self.incumbent)]
        if stretch.pair != self.incumbent and stretch.pair == self.thresholds.pair:
            instead = self._rehearsed(stretch, self.incumbent, costs) * math.exp(self._bias(self.incumbent)[0])
            self._trial_cost_s += (each - instead) * stretch.tokens
            self._trial_weight += weight

    def _rehearsed(self, stretch: Stretch, pair: Pair, costs: Costs) -> float:
        return rehearse(stretch.text, pair, costs, self._window, self._upload).each(self._price_s)

    def _noise(self) -> float:
        """Standard deviation of a measurement of weight 1, over all pairs."""
        freedom = sum(max(0.0, measured.weight - 1) for measured in self._measured.values())
        squares = sum(measured.squares for measured in self._measured.values() if measured.weight > 1)
        return math.sqrt((NOISE_COUNT * NOISE**2 + squares) / (NOISE_COUNT + freedom))

    def _trust(self) -> float:
        """`TRUST`, or more where the measurements of pairs differ by more than noise explains."""
        means = [(m.mean, m.weight) for m in self._measured.values() if m.weight >= 1]
        if len(means) < 3:
            return TRUST
        noise = self._noise() ** 2 * statistics.fmean(1 / weight for _, weight in means)
        return math.sqrt(max(TRUST**2, _variance([mean for mean, _ in means]) - noise))

    def _bias(self, pair: Pair) -> tuple[float, float]:
        """Mean and variance of ln(true / rehearsed) of this pair, beside what is common to all pairs."""
        noise, trust = self._noise() ** 2, self._trust() ** 2
        # What is common: each pair counts for as much as it says about that.
        shares = [(1 / (trust + noise / m.weight), m.mean) for m in self._measured.values()]
        if not shares:
            return 0.0, trust
        common = sum(share * mean for share, mean in shares) / sum(share for share, _ in shares)
        own = self._measured.get(pair)
        if own is None:
            return common, trust
        precision = 1 / trust + own.weight / noise
        return (common / trust + own.mean * own.weight / noise) / precision, 1 / precision

    # Deciding.

    def _better(self, pair: Pair) -> tuple[float, float]:
        """(gain over the incumbent, in natural logarithms; probability that there is one)."""
        mine, other = self._studied.rehearsed[pair], self._studied.rehearsed[self.incumbent]
        (bias, variance), (bias_other, variance_other) = self._bias(pair), self._bias(self.incumbent)
        gain = math.log(statistics.fmean(other) / statistics.fmean(mine)) + bias_other - bias
        if len(mine) > 1:
            off = [a - b for a, b in zip(mine, other, strict=True)]
            variance += _variance(off) / len(off) / statistics.fmean(other) ** 2
        else:
            variance += NOISE**2
        return gain, statistics.NormalDist().cdf(gain / math.sqrt(variance + variance_other))

    def _decide(self) -> None:
        if self.incumbent not in self._studied.rehearsed:
            return
        if self.trying:
            gain, probability = self._better(self.thresholds.pair)
            if probability >= ADOPT or (self._trial_weight >= TRIAL and gain > 0):
                self._adopt(self.thresholds.pair, gain)
            elif probability <= DROP or self._trial_weight >= TRIAL or not self._within_budget():
                self._dropped.add(self.thresholds.pair)
                self._end_trial()
            else:
                return
        found = ((*self._better(pair), pair) for pair in self._studied.rehearsed if pair not in self._dropped)
        gain, probability, pair = max(found, key=lambda one: one[0], default=(0.0, 0.0, self.incumbent))
        if pair == self.incumbent or gain < GAIN:
            return
        if probability >= ADOPT:
            self._adopt(pair, gain)
        elif probability > 0.5 and self._within_budget():
            self._trials += 1
            self.thresholds.put(pair)

    def _adopt(self, pair: Pair, gain: float) -> None:
        self._end_trial()
        log.info("tuner: R1 %.3f R2 %.3f, expected to gain %.1f %%", pair.r1, pair.r2, 100 * gain)
        self._changes += 1
        self.incumbent = pair
        self.thresholds.put(pair)

    def _end_trial(self) -> None:
        self._explored_s += max(0.0, self._trial_cost_s)
        self._trial_cost_s = self._trial_weight = 0.0
        self.thresholds.put(self.incumbent)

    def _within_budget(self) -> bool:
        each = self._spent_s / self._tokens if self._tokens else 0.0
        allowed = BUDGET * each * max(self._tokens, BEGINNING)
        return self._explored_s + max(0.0, self._trial_cost_s) <= allowed

    # Studies.

    def _ask(self) -> None:
        due = self._judged >= self._study_at and (self._cpu_s <= CPU_SHARE * self._drafting_s or not self._studies)
        if self._costs is None or self._asked or not due or not self._text:
            return
        biases = {pair: self._bias(pair)[0] - self._common() for pair in self._measured}
        pairs = tuple(dict.fromkeys((self.incumbent, self.thresholds.pair, *biases)))
        seed = self._seed + self._studies
        task = Task(tuple(self._text), self._costs, self._window, self._upload, self._price_s, pairs, biases, seed)
        if self._proposer.submit(task):
            self._asked = True
            self._wait *= GROWTH
            self._study_at = self._judged + self._wait
            self._take_study()
            self._decide()

    def _common(self) -> float:
        return self._bias(Pair(-1.0, -1.0))[0]

    def _take_study(self) -> None:
        done = self._proposer.result() if self._asked else None
        if done is None:
            return
        self._asked = False
        self._studies += 1
        self._cpu_s += done.cpu_s
        if self.incumbent in done.rehearsed and self.thresholds.pair in done.rehearsed:  # else it was begun before
            self._studied = done
            self._dropped.clear()
        elif not self.trying:
            self._study_at = float(self._judged)


def _variance(values: list[float]) -> float:
    """`statistics.variance` is exact, and thirty times as slow."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
