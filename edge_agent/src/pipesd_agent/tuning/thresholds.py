"""Thresholds that change while sessions run: the tuner writes them, triggers read them at each token."""

from __future__ import annotations

from typing import Protocol

from pipesd_agent.tuning.replay import Pair


class Thresholds:
    """The pair in force for all sessions of one tuner. version: counts its changes."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.version = 0

    def put(self, pair: Pair) -> None:
        """Put another pair in force, from the next token on."""
        if pair != self.pair:
            self.pair = pair
            self.version += 1


class TunedTrigger(Protocol):
    """A trigger whose thresholds may be replaced before its first token: greedy and sampled answers have each their
    own, and which it is turns out when the gateway accepts the request."""

    thresholds: Thresholds
