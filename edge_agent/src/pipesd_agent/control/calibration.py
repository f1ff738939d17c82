"""Confidence, fitted online from verified positions (architecture §5): what the agent's own pair and text say.

The drafter's confidence is the draft's largest probability at T = 0, and at T > 0 a function of the margin that was
fitted on the demo pair. Here a logistic function of margin and entropy is fitted to what was judged, beside the
drafter's own. The trigger works with it on the event loop; the drafting thread knows nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from pipesd_agent.drafting.confidence import SAMPLED, fit_weights
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import NullObserver
from pipesd_core.protocol.messages import Opened

MEMORY: Final = 2048
"""Newest judged tokens that are fitted to."""
REFIT: Final = 128
"""Judged tokens from one fit to the next, about half a millisecond each."""
WARM: Final = 128
"""Judged tokens that a fit has to be compared with the drafter's confidence on before it is used."""
FADE: Final = 1 - 1 / 1024
"""What was gained on a token counts that much after the next."""
MOST_MARGIN: Final = 12.0
RIDGE: Final = 1.0
LEAST: Final = 1e-3
"""Probabilities are kept that far from 0 and 1 when their log loss is taken, so that one surprise is not everything."""


class Weights(msgspec.Struct, frozen=True):
    """P(the target decides the same token) = 1 / (1 + exp(-(intercept + margin·margin + doubt·sqrt(entropy))))."""

    intercept: float
    margin: float
    doubt: float

    def __call__(self, token: DraftToken) -> float:
        """0..1."""
        z = self.intercept + self.margin * min(token.margin, MOST_MARGIN) + self.doubt * math.sqrt(token.entropy)
        return 1.0 / (1.0 + math.exp(-min(50.0, max(-50.0, z))))


PRIOR: Final = Weights(SAMPLED.intercept, SAMPLED.slope, 0.0)


class Calibration:
    """One kind of sampling's (greedy, or not: their margins are not the same thing), of all sessions of an agent.

    Pure. `judged` for every `SessionObserver.judged` of such a session, in any order of sessions; `calibrated` for a
    token that is drafted. A token without a margin (prompt lookup) keeps its confidence and teaches nothing. A fit is
    used while its log loss on tokens that it has not seen, newer ones counting more, is less than the drafter's.

    Attributes:
        weights: of the newest fit; None: not enough was judged. used: whether it is better. gain: by how much, mean
        nats a token.
    """

    def __init__(self) -> None:
        self.weights: Weights | None = None
        self.used = False
        self._rows = np.empty((MEMORY, 3))
        self._right = np.empty(MEMORY)
        self._count = 0
        self._compared = 0
        self._gained = self._weight = 0.0

    @property
    def gain(self) -> float:
        return self._gained / self._weight if self._weight else 0.0

    def confidence(self, token: DraftToken) -> float:
        """0..1, estimated probability that the target decides the same token."""
        if self.used and self.weights is not None and token.margin:
            return self.weights(token)
        return token.confidence

    def calibrated(self, token: DraftToken) -> DraftToken:
        """The token with that, which remembers the drafter's own."""
        if not self.used:
            return token
        return msgspec.structs.replace(token, confidence=self.confidence(token), own_confidence=token.confidence)

    def judged(self, token: DraftToken, right: bool) -> None:
        """The target has decided the position of a drafted token."""
        if not token.margin:
            return
        if self.weights is not None:
            self._compare(token.drafter_confidence, self.weights(token), right)
        at = self._count % MEMORY
        self._rows[at] = 1.0, min(token.margin, MOST_MARGIN), math.sqrt(token.entropy)
        self._right[at] = right
        self._count += 1
        if self._count % REFIT == 0:
            self._fit()

    def _compare(self, own: float, fitted: float, right: bool) -> None:
        self._gained = FADE * self._gained + _loss(own, right) - _loss(fitted, right)
        self._weight = FADE * self._weight + 1.0
        self._compared += 1
        self.used = self._compared >= WARM and self._gained > 0

    def _fit(self) -> None:
        known = min(self._count, MEMORY)
        prior = np.array(msgspec.structs.astuple(PRIOR))
        start = prior if self.weights is None else np.array(msgspec.structs.astuple(self.weights))
        found = fit_weights(self._rows[:known], self._right[:known], start, prior, RIDGE)
        if found[1] > 0:  # a pair whose margins say the opposite has given too little to go by
            self.weights = Weights(*(float(weight) for weight in found))


def _loss(probability: float, right: bool) -> float:
    """Nats."""
    return -math.log(max(LEAST, probability if right else 1.0 - probability))


class SessionCalibration(NullObserver):
    """The calibrator of one session, which is also its observer: what was judged teaches the calibration.

    by_sampling: calibrations of all sessions, by whether answers are sampled (temperature above 0); which one it is
    turns out when the gateway accepts the request. Until then confidences stay the drafter's.
    """

    def __init__(self, by_sampling: Mapping[bool, Calibration]) -> None:
        self._by_sampling = by_sampling
        self._calibration: Calibration | None = None

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:  # noqa: ARG002
        self._calibration = self._by_sampling[opened.params.temperature > 0]

    def calibrated(self, token: DraftToken) -> DraftToken:
        """The token with a confidence that was fitted, while that is better than the drafter's."""
        return token if self._calibration is None else self._calibration.calibrated(token)

    def judged(self, token: DraftToken, right: bool, now: float) -> None:  # noqa: ARG002
        if self._calibration is not None:
            self._calibration.judged(token, right)
