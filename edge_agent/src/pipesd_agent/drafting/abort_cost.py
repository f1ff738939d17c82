"""Estimate of whether aborting a forward saves time, when the target has decided its token (architecture §6, drafter).

The forward also computes the last token of the path, which the next one then has to compute besides its own. Where that
is as fast as one token (memory-bound), aborting saves what is left of the forward; llama.cpp on a CPU may need a third
more (Q8_0) or several times as long (F16), and then it costs more than it saves.
"""

from __future__ import annotations

from typing import Final

NEWEST_WEIGHT: Final = 0.1
"""Weight of the newest forward in the two means."""
FORGOTTEN_SHARE: Final = 0.02
"""Share of the known cost that is forgotten each time it forbids an abort, so that it is measured again."""


class AbortCost:
    """Mean seconds of a forward of one token, and of those that recompute what an abort threw away. Pure.

    Attributes:
        forward_s: of one token; None: not known.
        recompute_s: of one that recomputes; None: not known, and taken to be no more than `forward_s`.
    """

    def __init__(self) -> None:
        self.forward_s: float | None = None
        self.recompute_s: float | None = None

    def record(self, seconds: float, *, recomputed: bool) -> None:
        """Take note of a forward that was not aborted. recomputed: the one before it was."""
        if recomputed:
            self.recompute_s = _mean(self.recompute_s, seconds)
        else:
            self.forward_s = _mean(self.forward_s, seconds)

    def should_abort(self, elapsed_s: float) -> bool:
        """Whether to abort a forward of one token that has run for `elapsed_s` seconds."""
        if self.forward_s is None:
            return False
        left_s = self.forward_s - elapsed_s
        extra_s = 0.0 if self.recompute_s is None else max(0.0, self.recompute_s - self.forward_s)
        if 0 < left_s <= extra_s:
            self.recompute_s = self.forward_s + (1 - FORGOTTEN_SHARE) * extra_s
        return left_s > extra_s


def _mean(mean: float | None, seconds: float) -> float:
    return seconds if mean is None else mean + NEWEST_WEIGHT * (seconds - mean)
