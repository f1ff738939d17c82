"""The circuit breaker of one gateway: whether it may be tried now, and when again. Sans-I/O.

One failure opens it: there is another gateway to try, or nothing is lost by waiting. It stays open for a random time
(full jitter: the agents of a gateway that went down do not come back all at once) below a bound that doubles with each
failure; then it is half-open, one attempt is made, and the next failure opens it again. It is closed again when a
connection has lasted for `STABLE_S`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

BACKOFF_FIRST_S: Final = 0.5
STABLE_S: Final = 5.0
"""Duration below which a connection that ends counts as a failure."""


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """A circuit breaker. Times are clock readings in seconds, of any clock.

    Args:
        uniform: draws a number between two bounds.

    Attributes:
        failures: number of failures in a row.
    """

    def __init__(self, uniform: Callable[[float, float], float] | None = None) -> None:
        self.failures = 0
        self._uniform = uniform or random.uniform
        self._bound = 0.0
        self._until = 0.0
        self._early = False
        self._up_since: float | None = None

    def state(self, now: float) -> CircuitState:
        if not self.failures or self.stable(now):
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if self._up_since is not None or now >= self._until else CircuitState.OPEN

    def wait(self, now: float) -> float:
        """Seconds until an attempt may be made; 0: now. Attempts for a waiting client need not wait."""
        return max(0.0, self._until - now) if self.failures and self._up_since is None else 0.0

    def begin(self, now: float) -> None:
        """Take note that an attempt begins. One before its time, for a client, does not delay the next one further."""
        self._early = self.wait(now) > 0

    def connected(self, now: float) -> None:
        """Take note that the attempt succeeded."""
        self._up_since = now

    def failed(self, now: float, most: float) -> None:
        """Take note that the attempt failed, or that the connection was of no use.

        most: bound of the time until the next attempt, in seconds.
        """
        self._up_since = None
        self.failures += 1
        if not self._early:
            self._bound = max(BACKOFF_FIRST_S, 2 * self._bound)
        self._bound = min(self._bound, most)
        self._until = now + self._uniform(0.0, self._bound)

    def ended(self, now: float, most: float) -> None:
        """Take note that the connection was lost. most: see `failed`."""
        if self.stable(now):
            self.left(now)
        else:
            self.failed(now, most)

    def left(self, now: float) -> None:
        """Take note that the connection was given up, through no fault of the gateway."""
        if self.stable(now):
            self.failures, self._bound = 0, 0.0
        self._up_since = None

    def stable(self, now: float) -> bool:
        """Whether there is a connection that has lasted."""
        return self._up_since is not None and now - self._up_since >= STABLE_S
