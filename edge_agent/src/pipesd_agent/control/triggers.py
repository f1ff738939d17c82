"""Verification triggers: when are the drafts so far worth a verification? (architecture §6)

A trigger says when it *wants* one; end of text, end of window and end of context force one and are the session's
business, so that a trigger which never fires costs speed only. One instance per session.

Each is a class with a settings struct of its own, which is what `[trigger]` in the agent's file holds;
`TriggerSettings` lists them all. `DualThreshold` is the default, and the only one that the tuner works for. Sources:
PipeSD (dual), and the methods that it and GELATO compare with: HSL (token), EdgeLLM (sequence), Vanilla (fixed), SVIP,
AdaEDL.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, get_args

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Trigger
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.thresholds import Thresholds
from pipesd_core.errors import ConfigError
from pipesd_core.service.settings import TableKind, tag_of

MAX_LENGTH: Final = 256


def _check(name: str, value: float, most: float = 1.0) -> None:
    if not 0.0 <= value <= most:
        raise ConfigError(f"trigger.{name} must lie between 0 and {most:g}, but is {value}")


class _Settings(TableKind, frozen=True):
    """What the settings of all triggers have."""

    needs_entropy: ClassVar[bool] = False
    """It never fires where the drafter does not know its entropy (prompt lookup)."""

    def make(self) -> Trigger:
        """A new trigger, for one session."""
        raise NotImplementedError


class DualThreshold:
    """PipeSD's (§3): C1 is the product of the confidences since the last verification; verify iff C1 <= r1 or the
    token's confidence <= r2.

    r1 = 0 leaves the token threshold alone (HSL), r2 = 0 the sequence threshold (EdgeLLM's, not adapted). thresholds:
    the pair in force at each token, which a tuner may write; the trigger's may be replaced before the first token.
    """

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


class DualSettings(_Settings, frozen=True, tag="dual"):
    """Sequence and token threshold, 0..1 (the token's matters only above the sequence's).

    The defaults are from bench/proving/methods/defaults.py on the demo pair: few target forwards, where drafting costs
    far less than they.
    """

    r1: float = 0.1
    r2: float = 0.2

    def __post_init__(self) -> None:
        _check("r1", self.r1)
        _check("r2", self.r2)

    @property
    def pair(self) -> Pair:
        """Both, as the tuner has them."""
        return Pair(self.r1, self.r2)

    def make(self) -> DualThreshold:
        return DualThreshold(Thresholds(self.pair))


class TokenSettings(_Settings, frozen=True, tag="token"):
    """HSL's: the token threshold alone, 0..1."""

    r2: float = 0.2

    def __post_init__(self) -> None:
        _check("r2", self.r2)

    def make(self) -> DualThreshold:
        return DualThreshold(Thresholds(Pair(0.0, self.r2)))


class AdaptiveSequence:
    """EdgeLLM's, as PipeSD adapted it: verify iff C1 <= r1, and r1 follows the verdicts.

    All drafts accepted: r1 *= decay. Else r1 /= C1 ** (share rejected), C1 being the product that the last verification
    was asked for with. At 1 and above it verifies each token; the bound keeps the way back short.
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


class SequenceSettings(_Settings, frozen=True, tag="sequence"):
    """r1: where the sequence threshold starts, 0..1. decay: of it after a verification that accepted all."""

    r1: float = 0.1
    decay: float = 0.95

    def __post_init__(self) -> None:
        _check("r1", self.r1)
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError(f"trigger.decay must lie above 0 and at most at 1, but is {self.decay}")

    def make(self) -> AdaptiveSequence:
        return AdaptiveSequence(self.r1, self.decay)


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


class FixedSettings(_Settings, frozen=True, tag="fixed"):
    """length: drafts per verification."""

    length: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.length <= MAX_LENGTH:
            raise ConfigError(f"trigger.length must lie between 1 and {MAX_LENGTH}, but is {self.length}")

    def make(self) -> FixedLength:
        return FixedLength(self.length)


class Svip:
    """Verify iff sqrt(0.15 * entropy) > h (SVIP, as GELATO states it): a bound for the rejection probability.

    Looks at each token alone, and only at the entropy of the draft's softmax at temperature 1, whatever the request's.
    """

    needs_entropy = True
    SCALE: Final = 0.15

    def __init__(self, h: float) -> None:
        self.h = h

    def drafted(self, token: DraftToken) -> bool:
        return math.sqrt(self.SCALE * token.entropy) > self.h

    def reset(self) -> None:
        pass

    def verified(self, drafts: int, accepted: int) -> None:
        pass


class SvipSettings(_Settings, frozen=True, tag="svip"):
    """h: 0..2, of the square root of 0.15 entropy."""

    needs_entropy: ClassVar[bool] = Svip.needs_entropy
    h: float = 0.3

    def __post_init__(self) -> None:
        _check("h", self.h, 2.0)

    def make(self) -> Svip:
        return Svip(self.h)


class AdaEdl:
    """Verify iff 1 - sqrt(0.2 * entropy) < bound (AdaEDL, as GELATO states it); the bound follows the verdicts.

    It goes up by STEP while the mean share accepted is below TARGET, else down by it after a verdict that did not
    accept all; both smoothed.
    """

    needs_entropy = True
    SCALE: Final = 0.2
    TARGET: Final = 0.9
    STEP: Final = 0.01
    SHARE_WEIGHT: Final = 0.5
    BOUND_WEIGHT: Final = 0.1

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self._share: float | None = None

    def drafted(self, token: DraftToken) -> bool:
        return 1.0 - math.sqrt(self.SCALE * token.entropy) < self.bound

    def reset(self) -> None:
        pass

    def verified(self, drafts: int, accepted: int) -> None:
        share = accepted / drafts
        self._share = share if self._share is None else self._share + self.SHARE_WEIGHT * (share - self._share)
        step = 0.0
        if self._share < self.TARGET:
            step = self.STEP
        elif accepted < drafts:
            step = -self.STEP
        self.bound = min(1.0, max(0.0, self.bound + self.BOUND_WEIGHT * step))


class AdaEdlSettings(_Settings, frozen=True, tag="adaedl"):
    """bound: where the lower bound of the acceptance probability starts, 0..1."""

    needs_entropy: ClassVar[bool] = AdaEdl.needs_entropy
    bound: float = 0.3

    def __post_init__(self) -> None:
        _check("bound", self.bound)

    def make(self) -> AdaEdl:
        return AdaEdl(self.bound)


TriggerSettings = DualSettings | TokenSettings | SequenceSettings | FixedSettings | SvipSettings | AdaEdlSettings
"""All triggers there are; the first one is the default."""
KINDS: Final[tuple[str, ...]] = tuple(tag_of(kind) for kind in get_args(TriggerSettings))
BY_ENTROPY: Final = tuple(tag_of(kind) for kind in get_args(TriggerSettings) if kind.needs_entropy)
"""Names of those that need an entropy."""
