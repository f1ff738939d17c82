"""Estimate of what a token costs, from noisy measurements that never end."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW_TOKENS: Final = 16
"""Tokens that make one measurement."""
MEMORY_WINDOWS: Final = 48
"""Measurements that count; older ones fade."""
RECENT_WINDOWS: Final = 6
"""Last measurements, whose mean says whether conditions have changed."""
CHANGE_SHARE: Final = 0.3
"""Least share of the mean by which they then differ from it; they also differ by four of their standard errors."""


class TokenCost:
    """Seconds per token of one strategy, over its last measurements.

    Args:
        text_spread: standard deviation that text alone gives a measurement, as a share of the mean; no sign of a
            change.
    """

    def __init__(self, text_spread: float = 0.0) -> None:
        self._text_spread = text_spread
        self._seconds = 0.0
        self._tokens = 0.0
        self._squares = 0.0
        self._windows = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_WINDOWS)
        self._open_seconds = 0.0
        self._open_tokens = 0

    def add(self, seconds: float, tokens: int) -> bool:
        """Take note of `tokens` that took `seconds`. True: conditions have changed, and what was known is forgotten."""
        self._open_seconds += seconds
        self._open_tokens += tokens
        if self._open_tokens < WINDOW_TOKENS:
            return False
        changed = self._add_window(self._open_seconds, self._open_tokens)
        self._open_seconds, self._open_tokens = 0.0, 0
        return changed

    def _add_window(self, seconds: float, tokens: float) -> bool:
        sample = seconds / tokens
        self._recent.append(sample)
        recent = sum(self._recent) / len(self._recent)
        usual = max(self.deviation, self._text_spread * self.mean)
        change = max(CHANGE_SHARE * self.mean, 4 * usual / math.sqrt(RECENT_WINDOWS))
        if self._windows > 2 * RECENT_WINDOWS and abs(recent - self.mean) > change:
            self._seconds = recent * RECENT_WINDOWS * WINDOW_TOKENS
            self._tokens = float(RECENT_WINDOWS * WINDOW_TOKENS)
            self._squares, self._windows = sum(x * x for x in self._recent), float(len(self._recent))
            return True
        keep = 1 - 1 / MEMORY_WINDOWS
        self._seconds = self._seconds * keep + seconds
        self._tokens = self._tokens * keep + tokens
        self._squares = self._squares * keep + sample * sample
        self._windows = self._windows * keep + 1
        return False

    @property
    def tokens(self) -> float:
        """Tokens that the mean is of; faded ones count for less."""
        return self._tokens + self._open_tokens

    @property
    def mean(self) -> float:
        """Seconds per token; 0: nothing is known."""
        return (self._seconds + self._open_seconds) / self.tokens if self.tokens else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of a measurement, seconds per token; with too few of them, the one to be expected."""
        if self._windows < RECENT_WINDOWS:
            return max(self._text_spread, 0.1) * self.mean
        mean = self._seconds / self._tokens
        return math.sqrt(max(0.0, self._squares / self._windows - mean * mean))

    @property
    def error(self) -> float:
        """Standard error of the mean, seconds per token."""
        return self.deviation / math.sqrt(max(1.0, self._windows))
