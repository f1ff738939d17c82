"""How many of several places are taken, and how long it takes until the next ones become free.

Mean time that a place is held, by Little's law: the place-seconds held, over the places freed. So nobody has to keep
the time at which each one was taken, and those who hold places for unusually long count while they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_KEPT: Final = 15 / 16
"""Weight of what is known, with each place freed: about the last 16 count."""


class Occupancy:
    """The places of one kind.

    Attributes:
        taken: places that somebody holds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.taken = 0
        self._clock = clock
        self._counted_until = clock()
        self._held_s = self._freed = 0.0

    def take(self) -> None:
        """Note that a place is taken."""
        self._count()
        self.taken += 1

    def free(self) -> None:
        """Note that a place is free again."""
        self._count()
        self.taken -= 1
        self._held_s *= _KEPT
        self._freed = (self._freed + 1) * _KEPT

    def wait_s(self, ahead: int = 0) -> float:
        """Expected seconds until one place is free for whoever asks now, after the `ahead` who wait already.

        Before any was freed: as if all that has been held so far had been one place's time.
        """
        self._count()
        return self._held_s / max(1.0, self._freed) * (ahead + 1) / max(1, self.taken)

    def _count(self) -> None:
        now = self._clock()
        self._held_s += self.taken * (now - self._counted_until)
        self._counted_until = now
