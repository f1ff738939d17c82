"""NAV triggers: when are the drafts so far worth a verification? (architecture §6, papers/pipesd.md §3, §5)

A trigger says when it *wants* one; end of text, end of window and end of context force one and are the session's
business, so that a trigger which never fires costs speed only. One instance per session.
"""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import msgspec

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Trigger
from pipesd_core.errors import ConfigError

MAX_LENGTH: Final = 256


class DualThreshold:
    """The paper's: C1 is the product of the confidences since the last NAV; NAV iff C1 <= r1 or the token's <= r2.

    r1 = 0 leaves the token threshold alone (HSL, `token`), r2 = 0 the sequence threshold (EdgeLLM's, not adapted).
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


class Svip:
    """NAV iff sqrt(0.15 * entropy) > h (SVIP; papers/gelato_enachi.md part 3): a bound for the rejection probability.

    Looks at each token alone, and only at the entropy of the draft's softmax at temperature 1, whatever the request's.
    """

    SCALE: Final = 0.15

    def __init__(self, h: float) -> None:
        self.h = h

    def drafted(self, token: DraftToken) -> bool:
        return math.sqrt(self.SCALE * token.entropy) > self.h

    def reset(self) -> None:
        pass

    def verified(self, drafts: int, accepted: int) -> None:
        pass


class AdaEdl:
    """NAV iff 1 - sqrt(0.2 * entropy) < bound (AdaEDL; papers/gelato_enachi.md part 3), and the bound follows the
    verdicts: up by STEP while the mean share accepted is below TARGET, else down by it after one that did not accept
    all; both smoothed."""

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


Kind = Literal["dual", "fixed", "token", "sequence", "svip", "adaedl"]
KINDS: Final = get_args(Kind)
BY_ENTROPY: Final = ("svip", "adaedl")
"""Triggers that never fire where the drafter does not know its entropy (prompt lookup)."""


class TriggerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which trigger, and its figures.

    kind: `dual` (r1, r2), `token` (HSL: r2 alone), `sequence` (EdgeLLM's adaptation: r1 is where it starts, decay),
    `fixed` (length), `svip` (h), `adaedl` (bound is where it starts).
    r1, r2: sequence and token threshold, 0..1 (the token's matters only above the sequence's). The defaults
    are from bench/proving/methods/defaults.py on the demo pair: few target forwards, where drafting costs far less than
    they.
    length: drafts per verification. decay: of r1 after a verification that accepted all. h: 0..2, of the square root of
    0.15 entropy. bound: least lower bound of the acceptance, 0..1.
    """

    kind: Kind = "dual"
    r1: float = 0.1
    r2: float = 0.2
    length: int = 8
    decay: float = 0.95
    h: float = 0.3
    bound: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            now = ": it is called 'sequence' now" if str(self.kind) == "adaptive" else ""
            raise ConfigError(f"trigger.kind must be one of {', '.join(KINDS)}, but is {self.kind!r}{now}")
        for name, most in (("r1", 1.0), ("r2", 1.0), ("h", 2.0), ("bound", 1.0)):
            value = getattr(self, name)
            if not 0.0 <= value <= most:
                raise ConfigError(f"trigger.{name} must lie between 0 and {most:g}, but is {value}")
        if not 1 <= self.length <= MAX_LENGTH:
            raise ConfigError(f"trigger.length must lie between 1 and {MAX_LENGTH}, but is {self.length}")
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError(f"trigger.decay must lie above 0 and at most at 1, but is {self.decay}")

    def make(self) -> Trigger:
        """A new trigger, for one session."""
        match self.kind:
            case "fixed":
                return FixedLength(self.length)
            case "token":
                return DualThreshold(0.0, self.r2)
            case "sequence":
                return AdaptiveSequence(self.r1, self.decay)
            case "svip":
                return Svip(self.h)
            case "adaedl":
                return AdaEdl(self.bound)
            case _:
                return DualThreshold(self.r1, self.r2)
