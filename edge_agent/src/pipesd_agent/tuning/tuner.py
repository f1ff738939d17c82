"""Tuner of the thresholds (R1, R2) of the dual trigger, while real answers are written (architecture §6).

Three things keep that cheap. Candidates come from a search (`search`): an optimizer minimises what the last judged
drafts would have cost (`replay`), which costs no token. What is measured is divided by what the replay of the very same
text says, so that hard and easy text do not drown the difference; that also says of each pair by how much its replay is
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

from pipesd_agent.tuning.replay import Judged, Pair, PipelineCosts, UploadStrategy, replay
from pipesd_agent.tuning.search import Proposer, SearchResult, SearchTask
from pipesd_agent.tuning.thresholds import Thresholds

log = logging.getLogger(__name__)

RECORDED_DRAFTS: Final = 1536
"""Judged drafts that are kept for replays."""
RECENT_DRAFTS: Final = 384
"""Those of them that are kept when the acceptance rate has changed."""
STRETCH: Final = 64
"""Output tokens that make one measurement; fewer count for less."""
MIN_STRETCH_TOKENS: Final = 16
"""Output tokens below which a stretch measures nothing."""
FIRST_SEARCH_DRAFTS: Final = 128
"""Judged drafts before the first search; each one waits for SEARCH_INTERVAL_GROWTH times as many as the one before."""
SEARCH_INTERVAL_GROWTH: Final = 2.2
SEARCH_CPU_SHARE: Final = 0.005
"""CPU time of searches after the first, as a share of the time that drafting takes."""
REPLAY_DEVIATION: Final = 0.03
"""Standard deviation, between pairs, of ln(true / replayed cost)."""
NOISE_DEVIATION: Final = 0.05
"""Standard deviation of ln(measured / true cost) of a stretch, before there are measurements."""
NOISE_PRIOR_COUNT: Final = 4.0
"""Measurements that NOISE_DEVIATION is worth."""
OUTLIER_DEVIATIONS: Final = 4.0
"""Standard deviations beyond which a measurement is taken to be as far only: a link that hung, say."""
MIN_GAIN: Final = 0.005
"""Less of an improvement, in natural logarithms, is not worth a trial."""
ADOPT_PROBABILITY, DROP_PROBABILITY = 0.9, 0.3
"""Probabilities that a candidate is better than the incumbent from which on it is adopted, or dropped."""
TRIAL_STRETCHES: Final = 6.0
"""Stretches after which the more probable of the two is taken."""
TRIAL_BUDGET: Final = 0.02
"""What candidates may cost beyond the incumbent, as a share of all that was spent."""
TRIAL_BUDGET_LENT_TOKENS: Final = 10_000
"""Tokens whose share is lent in advance."""
MEASURED_PAIRS: Final = 12
"""Pairs whose measurements are kept: those that were in force last."""
KEPT_AFTER_CHANGE: Final = 0.25
"""Weight that measurements keep when conditions have changed."""


class Stretch(Struct, frozen=True):
    """A part of one answer, written with one pair and without a free run of the target.

    tokens: output tokens; 0: only the text counts. text: the drafts that were judged on the way.
    """

    pair: Pair
    tokens: int
    seconds: float
    verifications: int
    text: tuple[Judged, ...]


class TunerFigures(Struct, frozen=True):
    """Figures of one tuner.

    objective_s: estimate for the pair in force, seconds per token; None: not known yet. spent_s, explored_s: cost of
    all that was measured, and the part of it that candidates cost beyond the incumbent.
    """

    pair: Pair
    incumbent: Pair
    trying: bool
    objective_s: float | None
    tokens: int
    spent_s: float
    explored_s: float
    searches: int
    search_cpu_s: float
    trials: int
    changes: int
    failed: str


@dataclass
class _Measured:
    """Measurements of one pair: weight, mean and sum of squared deviations of ln(measured / replayed cost)."""

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float, weight: float) -> None:
        self.weight += weight
        off = value - self.mean
        self.mean += off * weight / self.weight
        self.squares += weight * off * (value - self.mean)

    def forget(self) -> None:
        self.weight *= KEPT_AFTER_CHANGE
        self.squares *= KEPT_AFTER_CHANGE


class Tuner:
    """Tuner for one kind of answers (greedy or sampled) of all sessions of an agent.

    The owner gives `thresholds` to each session's trigger, and calls `costs` whenever the monitor has new ones (no
    search begins before), `stretch` with what a `DraftRecorder` hands over, and `moved` when conditions have changed.

    Args:
        first: in force until there is a better one.
        window: `SessionSettings.window`.
        upload: what the sessions' batcher does.
        verification_cost_s: the objective is seconds per token + this · verifications per token.
    """

    def __init__(
        self,
        first: Pair,
        proposer: Proposer,
        *,
        window: int,
        upload: UploadStrategy = "planned",
        verification_cost_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.thresholds = Thresholds(first)
        self.incumbent = first
        self._proposer = proposer
        self._window = window
        self._upload: UploadStrategy = upload
        self._verification_cost_s = verification_cost_s
        self._seed = seed
        self._costs: PipelineCosts | None = None
        self._text: deque[Judged] = deque(maxlen=RECORDED_DRAFTS)
        self._judged = 0
        self._search_at = float(FIRST_SEARCH_DRAFTS)
        self._search_interval = float(FIRST_SEARCH_DRAFTS)
        self._moved_at = 0
        self._searching = False
        self._found = SearchResult({})
        self._measured: dict[Pair, _Measured] = {}
        self._dropped: set[Pair] = set()
        self._trial_cost_s = self._trial_weight = 0.0
        self._tokens = self._searches = self._trials = self._changes = 0
        self._drafting_s = self._spent_s = self._explored_s = self._cpu_s = 0.0

    @property
    def trying(self) -> bool:
        return self.thresholds.pair != self.incumbent

    @property
    def good(self) -> Pair | None:
        """The incumbent, if it has been measured for long enough to begin with it the next time."""
        measured = self._measured.get(self.incumbent)
        return self.incumbent if measured and measured.weight >= TRIAL_STRETCHES else None

    def begin_with(self, pair: Pair) -> None:
        """Put a pair in force that was good before."""
        self._end_trial()
        self.incumbent = pair
        self.thresholds.put(pair)

    def costs(self, costs: PipelineCosts) -> None:
        """Take note of what the monitor measures now; cheap."""
        self._costs = costs

    def moved(self, why: str, *, text: bool = False) -> None:
        """Take note that conditions have changed: measurements count for little now, and a search is due.

        text: the acceptance rate has, so that recorded text counts for little too.
        """
        log.info("tuner: conditions changed (%s)", why)
        if self._judged - self._moved_at >= FIRST_SEARCH_DRAFTS:  # else they still change
            for measured in self._measured.values():
                measured.forget()
        self._moved_at = self._judged
        if text:
            self._text = deque(list(self._text)[-RECENT_DRAFTS:], maxlen=RECORDED_DRAFTS)
        self._dropped.clear()
        self._found = SearchResult({})
        self._end_trial()
        self._search_interval = float(FIRST_SEARCH_DRAFTS)
        self._search_at = self._judged + self._search_interval * (1.0 if text else 0.0)

    def stretch(self, stretch: Stretch) -> None:
        """Take note of a part of an answer. Takes some hundred microseconds; searches are the proposer's."""
        self._text.extend(stretch.text)
        self._judged += len(stretch.text)
        if self._costs is not None:
            self._drafting_s += self._costs.draft_s * len(stretch.text)
            if stretch.tokens >= MIN_STRETCH_TOKENS and stretch.text and stretch.seconds > 0:
                self._measure(stretch, self._costs)
        self._take_result()
        self._decide()
        self._submit_search()

    def figures(self) -> TunerFigures:
        pair = self.thresholds.pair
        replayed = self._found.replayed.get(pair)
        objective = statistics.fmean(replayed) * math.exp(self._bias(pair)[0]) if replayed else None
        return TunerFigures(
            pair,
            self.incumbent,
            self.trying,
            objective,
            self._tokens,
            self._spent_s,
            self._explored_s + max(0.0, self._trial_cost_s),
            self._searches,
            self._cpu_s,
            self._trials,
            self._changes,
            self._proposer.failed,
        )

    # Measuring.

    def _measure(self, stretch: Stretch, costs: PipelineCosts) -> None:
        per_token = (stretch.seconds + self._verification_cost_s * stretch.verifications) / stretch.tokens
        replayed = self._replayed(stretch, stretch.pair, costs)
        self._tokens += stretch.tokens
        self._spent_s += per_token * stretch.tokens
        weight = stretch.tokens / STRETCH
        value = math.log(per_token / replayed)
        if self._measured:
            middle, far = (
                self._bias(stretch.pair)[0],
                OUTLIER_DEVIATIONS * math.hypot(self._noise() / math.sqrt(weight), self._replay_deviation()),
            )
            value = min(max(value, middle - far), middle + far)
        measured = self._measured.pop(stretch.pair, None) or _Measured()
        measured.add(value, weight)
        self._measured[stretch.pair] = measured  # the last one now
        if len(self._measured) > MEASURED_PAIRS:
            del self._measured[next(pair for pair in self._measured if pair != self.incumbent)]
        if stretch.pair != self.incumbent and stretch.pair == self.thresholds.pair:
            instead = self._replayed(stretch, self.incumbent, costs) * math.exp(self._bias(self.incumbent)[0])
            self._trial_cost_s += (per_token - instead) * stretch.tokens
            self._trial_weight += weight

    def _replayed(self, stretch: Stretch, pair: Pair, costs: PipelineCosts) -> float:
        return replay(stretch.text, pair, costs, self._window, self._upload).per_token(self._verification_cost_s)

    def _noise(self) -> float:
        """Standard deviation of a measurement of weight 1, over all pairs."""
        freedom = sum(max(0.0, measured.weight - 1) for measured in self._measured.values())
        squares = sum(measured.squares for measured in self._measured.values() if measured.weight > 1)
        return math.sqrt((NOISE_PRIOR_COUNT * NOISE_DEVIATION**2 + squares) / (NOISE_PRIOR_COUNT + freedom))

    def _replay_deviation(self) -> float:
        """`REPLAY_DEVIATION`, or more where the measurements of pairs differ by more than noise explains."""
        means = [(m.mean, m.weight) for m in self._measured.values() if m.weight >= 1]
        if len(means) < 3:
            return REPLAY_DEVIATION
        noise = self._noise() ** 2 * statistics.fmean(1 / weight for _, weight in means)
        return math.sqrt(max(REPLAY_DEVIATION**2, _variance([mean for mean, _ in means]) - noise))

    def _bias(self, pair: Pair) -> tuple[float, float]:
        """Mean and variance of ln(true / replayed) of this pair, beside what is common to all pairs."""
        noise, spread = self._noise() ** 2, self._replay_deviation() ** 2
        # What is common: each pair counts for as much as it says about that.
        shares = [(1 / (spread + noise / m.weight), m.mean) for m in self._measured.values()]
        if not shares:
            return 0.0, spread
        common = sum(share * mean for share, mean in shares) / sum(share for share, _ in shares)
        own = self._measured.get(pair)
        if own is None:
            return common, spread
        precision = 1 / spread + own.weight / noise
        return (common / spread + own.mean * own.weight / noise) / precision, 1 / precision

    # Deciding.

    def _better(self, pair: Pair) -> tuple[float, float]:
        """(gain over the incumbent, in natural logarithms; probability that there is one)."""
        mine, other = self._found.replayed[pair], self._found.replayed[self.incumbent]
        (bias, variance), (bias_other, variance_other) = self._bias(pair), self._bias(self.incumbent)
        gain = math.log(statistics.fmean(other) / statistics.fmean(mine)) + bias_other - bias
        if len(mine) > 1:
            off = [a - b for a, b in zip(mine, other, strict=True)]
            variance += _variance(off) / len(off) / statistics.fmean(other) ** 2
        else:
            variance += NOISE_DEVIATION**2
        return gain, statistics.NormalDist().cdf(gain / math.sqrt(variance + variance_other))

    def _decide(self) -> None:
        if self.incumbent not in self._found.replayed:
            return
        if self.trying:
            gain, probability = self._better(self.thresholds.pair)
            if probability >= ADOPT_PROBABILITY or (self._trial_weight >= TRIAL_STRETCHES and gain > 0):
                self._adopt(self.thresholds.pair, gain)
            elif probability <= DROP_PROBABILITY or self._trial_weight >= TRIAL_STRETCHES or not self._within_budget():
                self._dropped.add(self.thresholds.pair)
                self._end_trial()
            else:
                return
        found = ((*self._better(pair), pair) for pair in self._found.replayed if pair not in self._dropped)
        gain, probability, pair = max(found, key=lambda one: one[0], default=(0.0, 0.0, self.incumbent))
        if pair == self.incumbent or gain < MIN_GAIN:
            return
        if probability >= ADOPT_PROBABILITY:
            self._adopt(pair, gain)
        elif probability > 0.5 and self._within_budget():
            self._trials += 1
            self.thresholds.put(pair)

    def _adopt(self, pair: Pair, gain: float) -> None:
        self._end_trial()
        log.info("tuner: adopted R1 %.3f R2 %.3f, expected gain %.1f %%", pair.r1, pair.r2, 100 * gain)
        self._changes += 1
        self.incumbent = pair
        self.thresholds.put(pair)

    def _end_trial(self) -> None:
        self._explored_s += max(0.0, self._trial_cost_s)
        self._trial_cost_s = self._trial_weight = 0.0
        self.thresholds.put(self.incumbent)

    def _within_budget(self) -> bool:
        each = self._spent_s / self._tokens if self._tokens else 0.0
        allowed = TRIAL_BUDGET * each * max(self._tokens, TRIAL_BUDGET_LENT_TOKENS)
        return self._explored_s + max(0.0, self._trial_cost_s) <= allowed

    # Searching.

    def _submit_search(self) -> None:
        affordable = self._cpu_s <= SEARCH_CPU_SHARE * self._drafting_s or not self._searches
        due = self._judged >= self._search_at and affordable
        if self._costs is None or self._searching or not due or not self._text:
            return
        biases = {pair: self._bias(pair)[0] - self._common() for pair in self._measured}
        pairs = tuple(dict.fromkeys((self.incumbent, self.thresholds.pair, *biases)))
        seed = self._seed + self._searches
        task = SearchTask(
            tuple(self._text), self._costs, self._window, self._upload, self._verification_cost_s, pairs, biases, seed
        )
        if self._proposer.submit(task):
            self._searching = True
            self._search_interval *= SEARCH_INTERVAL_GROWTH
            self._search_at = self._judged + self._search_interval
            self._take_result()
            self._decide()

    def _common(self) -> float:
        return self._bias(Pair(-1.0, -1.0))[0]

    def _take_result(self) -> None:
        done = self._proposer.result() if self._searching else None
        if done is None:
            if self._proposer.failed:
                self._searching = False  # the proposer says when it takes another one
            return
        self._searching = False
        self._searches += 1
        self._cpu_s += done.cpu_s
        if self.incumbent in done.replayed and self.thresholds.pair in done.replayed:  # else it was begun before
            self._found = done
            self._dropped.clear()
        elif not self.trying:
            self._search_at = float(self._judged)


def _variance(values: list[float]) -> float:
    """`statistics.variance` is exact, and thirty times as slow."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
