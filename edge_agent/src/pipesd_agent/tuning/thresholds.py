"""Thresholds that change while sessions run: the tuner writes them, triggers read them at each token."""

from __future__ import annotations

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.tuning.replay import Pair


class Thresholds:
    """The pair in force for all sessions of one tuner. version: counts its changes."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.version = 0

    def put(self, pair: Pair) -> None:
        if pair != self.pair:
            self.pair = pair
            self.version += 1


class TunedDual:
    """`triggers.DualThreshold` with the pair in force at each token. thresholds: may be replaced before the first one
    (greedy and sampled answers have each their own, and which it is turns out when the gateway accepts the request)."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._product = 1.0

    def drafted(self, token: DraftToken) -> bool:
        pair = self.thresholds.pair
        self._product *= token.confidence
        return self._product <= pair.r1 or token.confidence <= pair.r2

    def reset(self) -> None:
        self._product = 1.0

    def verified(self, drafts: int, accepted: int) -> None:
        pass
