"""Is a forward worth aborting when the target has decided the token that it is for? (architecture §6, drafter)

It also computes the last token of the path, which the next forward then has to compute besides its own. Where that is
as fast as one token (memory-bound), aborting saves what is left of the forward; llama.cpp on a CPU may need a third
more (Q8_0) or several times as long (F16), and then it costs more than it saves.
"""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.1
"""Of the newest forward in the two means."""
FORGET: Final = 0.02
"""Share of the known cost that is forgotten each time it speaks against aborting, so that it is measured again."""


class Redo:
    """Mean seconds of a forward of one token, and of those that do again what an abort threw away. Pure."""

    def __init__(self) -> None:
        self.one_s: float | None = None
        self.again_s: float | None = None
        """None: not known; then it is taken to be no more than `one_s`."""

    def took(self, seconds: float, *, again: bool) -> None:
        """A forward ended by itself. again: it had to compute what one that was aborted before it would have."""
        if again:
            self.again_s = _mean(self.again_s, seconds)
        else:
            self.one_s = _mean(self.one_s, seconds)

    def worth(self, elapsed_s: float) -> bool:
        """Abort the forward of one token that has run for so long?"""
        if self.one_s is None:
            return False
        left_s = self.one_s - elapsed_s
        extra_s = 0.0 if self.again_s is None else max(0.0, self.again_s - self.one_s)
        if 0 < left_s <= extra_s:
            self.again_s = self.one_s + (1 - FORGET) * extra_s
        return left_s > extra_s


def _mean(mean: float | None, seconds: float) -> float:
    return seconds if mean is None else mean + WEIGHT * (seconds - mean)
