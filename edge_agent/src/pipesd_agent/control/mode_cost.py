"""What a token costs, from noisy measurements that go on for ever."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

WINDOW: Final = 16
"""Tokens of a measurement."""
MEMORY: Final = 48
"""Measurements that count; older ones fade."""
RECENT: Final = 6
"""Measurements that tell that conditions moved,"""
MOVED: Final = 0.3
"""if they differ from the mean by this share of it, and by four of their standard errors."""


class Cost:
    """Seconds per token of one way, over its last measurements.

    spread: what a text alone may make of a measurement, as a share of the mean: no sign that conditions moved."""

    def __init__(self, spread: float = 0.0) -> None:
        self._spread = spread
        self.seconds = 0.0
        self.tokens = 0.0
        self.squares = 0.0
        self.count = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)
        self._seconds = 0.0
        self._tokens = 0

    def add(self, seconds: float, tokens: int) -> bool:
        """Whether conditions have moved since what was known, which is forgotten then."""
        self._seconds += seconds
        self._tokens += tokens
        if self._tokens < WINDOW:
            return False
        sample = self._seconds / self._tokens
        moved = self._count_in(sample, self._seconds, self._tokens)
        self._seconds, self._tokens = 0.0, 0
        return moved

    def _count_in(self, sample: float, seconds: float, tokens: float) -> bool:
        self.recent.append(sample)
        now = sum(self.recent) / len(self.recent)
        usual = max(self.deviation, self._spread * self.mean)
        far = max(MOVED * self.mean, 4 * usual / math.sqrt(RECENT))
        if self.count > 2 * RECENT and abs(now - self.mean) > far:
            self.seconds, self.tokens = now * RECENT * WINDOW, float(RECENT * WINDOW)
            self.squares, self.count = sum(x * x for x in self.recent), float(len(self.recent))
            return True
        keep = 1 - 1 / MEMORY
        self.seconds = self.seconds * keep + seconds
        self.tokens = self.tokens * keep + tokens
        self.squares = self.squares * keep + sample * sample
        self.count = self.count * keep + 1
        return False

    @property
    def known(self) -> float:
        """Tokens that the mean is of."""
        return self.tokens + self._tokens

    @property
    def mean(self) -> float:
        """Seconds per token; 0: nothing is known."""
        return (self.seconds + self._seconds) / self.known if self.known else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of a measurement; of too few, the spread that is to be expected."""
        if self.count < RECENT:
            return max(self._spread, 0.1) * self.mean
        mean = self.seconds / self.tokens
        return math.sqrt(max(0.0, self.squares / self.count - mean * mean))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(max(1.0, self.count))
