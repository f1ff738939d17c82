"""Draft lengths: how many tokens there are between one verification and the next (PipeSD §2)."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

N_HAT: Final = 20
"""Mean length before any is known."""
OVER: Final = 100
"""How many of the last lengths count."""
LONGEST: Final = 64
"""Longer ones count as this long: what is planned ahead is bounded."""
PRIOR: Final = 4.0
"""Lengths' worth of a geometric distribution in the chances: none that may come is impossible, few samples are few."""


class Lengths:
    """The last `OVER` draft lengths. added: ever."""

    def __init__(self) -> None:
        self.added = 0
        self._last: deque[int] = deque(maxlen=OVER)
        self._sum = 0

    def add(self, drafts: int) -> None:
        """Take the length of a draft, in tokens; 0 is no length."""
        if drafts < 1:
            return
        if len(self._last) == OVER:
            self._sum -= self._last[0]
        self._last.append(drafts)
        self._sum += drafts
        self.added += 1

    @property
    def n_hat(self) -> int:
        """Their mean, rounded: the paper's N-hat."""
        mean = self.mean
        return N_HAT if mean is None else max(1, round(mean))

    @property
    def mean(self) -> float | None:
        """Their mean, in tokens; None: there are none yet."""
        return self._sum / len(self._last) if self._last else None

    def chances(self) -> NDArray[np.float64]:
        """[n + 1]: at index l the probability that a draft is l tokens long; 0 is none, the last also of longer ones.

        n: as long as one was, twice N-hat at least, `LONGEST` at most.
        """
        mean = self.n_hat
        n = min(max(2 * mean, *self._last, 2), LONGEST)
        going_on = mean / (mean + 1)
        chances: NDArray[np.float64] = np.zeros(n + 1)
        chances[1:] = PRIOR * (1 - going_on) * going_on ** np.arange(n)
        chances[n] += PRIOR * going_on**n
        for length in self._last:
            chances[min(length, n)] += 1
        chances /= chances.sum()
        return chances
