"""NAV triggers: when are the drafts so far worth a verification? (architecture §6, papers/pipesd.md §3, §5)

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

    def verified(self, drafts: int, accepted: int) -> None:
        """A verification of `drafts` >= 1 drafts accepted the first `accepted`. Comes before the reset for the rest."""


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

    def verified(self, drafts: int, accepted: int) -> None:
        pass


class AdaptiveSequence:
    """EdgeLLM's, as the paper adapted it: NAV iff C1 <= r1, and r1 follows the verdicts.

    All drafts accepted: r1 *= decay. Else r1 /= C1 ** (share rejected), C1 being the product that the last NAV was
    sent with. At 1 and above it verifies each token; the bound keeps the way back short.
    """

    MOST: Final = 1.99
    LEAST: Final = 1e-9

    def __init__(self, r1: float, decay: float) -> None:
        self.r1 = r1
        self.decay = decay
        self._product = 1.0
        self._verifying = 1.0

    def drafted(self, token: DraftToken) -> bool:
        self._product *= token.confidence
        return self._product <= self.r1

    def reset(self) -> None:
        self._verifying = self._product
        self._product = 1.0

    def verified(self, drafts: int, accepted: int) -> None:
        if accepted == drafts:
            self.r1 = max(self.LEAST, self.r1 * self.decay)
        else:
            certainty = max(self.LEAST, self._verifying ** ((drafts - accepted) / drafts))
            self.r1 = min(self.MOST, self.r1 / certainty)


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

    def verified(self, drafts: int, accepted: int) -> None:
        pass


class TriggerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trigger, and its figures: `dual`, `fixed` or `adaptive`.

    r1, r2: sequence and token threshold of `dual`, 0..1 (the token's matters only above the sequence's). The defaults
    are from bench/proving/defaults.py on the demo pair: few target forwards, where drafting costs far less than they.
    length: drafts per verification of `fixed`. decay: of `adaptive`, whose r1 is where it starts.
    """

    kind: Literal["dual", "fixed", "adaptive"] = "dual"
    r1: float = 0.1
    r2: float = 0.2
    length: int = 8
    decay: float = 0.95

    def __post_init__(self) -> None:
        if self.kind not in ("dual", "fixed", "adaptive"):
            raise ConfigError(f"trigger.kind must be 'dual', 'fixed' or 'adaptive', but is {self.kind!r}")
        for name in ("r1", "r2"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"trigger.{name} must lie between 0 and 1, but is {value}")
        if not 1 <= self.length <= MAX_LENGTH:
            raise ConfigError(f"trigger.length must lie between 1 and {MAX_LENGTH}, but is {self.length}")
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError(f"trigger.decay must lie above 0 and at most at 1, but is {self.decay}")

    def make(self) -> Trigger:
        """A new trigger, for one session."""
        match self.kind:
            case "fixed":
                return FixedLength(self.length)
            case "adaptive":
                return AdaptiveSequence(self.r1, self.decay)
            case _:
                return DualThreshold(self.r1, self.r2)
