"""The mean of the last few values, and how sure it is."""

from __future__ import annotations

import math
from collections import deque


class Rolling:
    """Mean, deviation and least of the last `size` values. added: how many there ever were."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = 0.0
        self._squares = 0.0
        self.added = 0

    def add(self, value: float) -> None:
        """Take a value; the oldest goes."""
        values = self._values
        if len(values) == values.maxlen:
            gone = values[0]
            self._sum -= gone
            self._squares -= gone * gone
        values.append(value)
        self._sum += value
        self._squares += value * value
        self.added += 1
        if self.added % 4096 == 0:  # rounding errors do not add up for ever
            self._sum = math.fsum(values)
            self._squares = math.fsum(v * v for v in values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def mean(self) -> float | None:
        """Mean of the values; None: there is none yet."""
        return self._sum / len(self._values) if self._values else None

    @property
    def deviation(self) -> float:
        """Standard deviation of a value; 0.0 below two of them."""
        n = len(self._values)
        if n < 2:
            return 0.0
        return math.sqrt(max(0.0, self._squares - self._sum * self._sum / n) / (n - 1))

    @property
    def error(self) -> float:
        """Standard error of the mean, if the values are independent."""
        return self.deviation / math.sqrt(len(self._values)) if self._values else 0.0

    @property
    def least(self) -> float | None:
        """The least value; None: there is none yet."""
        return min(self._values, default=None)

    def values(self) -> tuple[float, ...]:
        """The values, oldest first."""
        return tuple(self._values)
