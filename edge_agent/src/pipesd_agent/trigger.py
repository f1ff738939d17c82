"""NAV triggers: when are the drafts so far worth a verification? (architecture §6, papers/pipesd.md §3)

A trigger says when it *wants* one; end of text, end of window and end of context force one and are the session's
business, so that a trigger which never fires costs speed only. One instance per session.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from pipesd_agent.drafting.types import DraftToken
from pipesd_gateway.exceptions import ConfigError

MAX_LENGTH: Final = 256


class Trigger(Protocol):
    def drafted(self, token: DraftToken) -> bool:
        """Take note of the next drafted token. True: verify now, this token included."""

    def reset(self) -> None:
        """Start a new window: a NAV was sent, or the drafts since the last one were discarded."""


class DualThreshold:
    """The paper's: C1 is the product of the confidences since the last NAV; NAV iff C1 <= r1 or the token's <= r2.

    r1 = 0 leaves the token threshold alone (HSL), r2 = 0 the sequence threshold (EdgeLLM's, not adapted).
    """

    def __init__(self, r1: float, r2: float) -> None:
        self.r1 = r1
        self.r2 = r2
        self._product = 1.0

    def drafted(self, token: DraftToken) -> bool:
        self._product *= token.confidence
        return self._product <= self.r1 or token.confidence <= self.r2

    def reset(self) -> None:
        self._product = 1.0


class FixedLength:
    """Verify every `length` drafts (Vanilla)."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._count = 0

    def drafted(self, token: DraftToken) -> bool:  # noqa: ARG002
        self._count += 1
        return self._count >= self.length

    def reset(self) -> None:
        self._count = 0


class TriggerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trigger, and its figures.

    r1, r2: sequence and token threshold of `dual`, 0..1 (the token's matters only above the sequence's). The defaults
    are from bench/thresholds.py on the demo pair: few target forwards, while drafting costs far less than they do.
    length: drafts per verification of `fixed`.
    """

    kind: Literal["dual", "fixed"] = "dual"
    r1: float = 0.1
    r2: float = 0.2
    length: int = 8

    def __post_init__(self) -> None:
        if self.kind not in ("dual", "fixed"):
            raise ConfigError(f"trigger.kind must be 'dual' or 'fixed', but is {self.kind!r}")
        for name in ("r1", "r2"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"trigger.{name} must lie between 0 and 1, but is {value}")
        if not 1 <= self.length <= MAX_LENGTH:
            raise ConfigError(f"trigger.length must lie between 1 and {MAX_LENGTH}, but is {self.length}")

    def make(self) -> Trigger:
        """A new trigger, for one session."""
        return DualThreshold(self.r1, self.r2) if self.kind == "dual" else FixedLength(self.length)
