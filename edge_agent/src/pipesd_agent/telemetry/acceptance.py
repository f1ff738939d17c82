"""The acceptance rate of drafts, also by the confidence that they were drafted with."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from msgspec import Struct

BOUNDS: Final = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 1.0)
"""Upper ends of the bins, included."""
KEPT: Final = 0.995
"""Share of the past's weight that each draft of a bin leaves it: about its last 200 count."""


class Bin(Struct, frozen=True):
    """Drafts of similar confidence.

    upto: highest confidence. weight: drafts, older ones less. right: share of them; 0.0 where there are none.
    """

    upto: float
    weight: float
    right: float


class Acceptance:
    """The share of judged drafts that were right: those up to the first wrong one of each path, and that one."""

    def __init__(self) -> None:
        self._weights = [0.0] * len(BOUNDS)
        self._rights = [0.0] * len(BOUNDS)
        self._all: float | None = None

    def judged(self, confidence: float, right: bool) -> None:
        """Take a judged draft."""
        at = min(bisect_left(BOUNDS, confidence), len(BOUNDS) - 1)
        self._weights[at] = KEPT * self._weights[at] + 1.0
        self._rights[at] = KEPT * self._rights[at] + right
        self._all = float(right) if self._all is None else KEPT * self._all + (1 - KEPT) * right

    @property
    def rate(self) -> float | None:
        """Share of right drafts, 0..1, whatever the confidence. None: none was judged yet."""
        return self._all

    @property
    def bins(self) -> tuple[Bin, ...]:
        """The share by confidence, the lowest first."""
        return tuple(
            Bin(upto, weight, right / weight if weight else 0.0)
            for upto, weight, right in zip(BOUNDS, self._weights, self._rights, strict=True)
        )
