"""Time per output token and verifications per output token, by windows of about a hundred tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

TOKENS: Final = 100
KEPT: Final = 32
MOST_S: Final = 10.0
"""Seconds between two decisions at most: more is a client that does not read, or a link that was lost, and says nothing
of a policy."""


class Window(Struct, frozen=True):
    """Figures of `tokens` output tokens, of all sessions.

    seconds: between the decisions of each session, so that sessions side by side do not look fast; nothing of the time
    to the first token is in it. forwards: steps of the target. verified, accepted: drafts.
    """

    tokens: int
    seconds: float
    verifications: int
    forwards: int
    verified: int
    accepted: int

    @property
    def tpot_s(self) -> float:
        """Seconds per output token."""
        return self.seconds / self.tokens

    @property
    def verifications_per_token(self) -> float:
        """Verifications per output token."""
        return self.verifications / self.tokens


class Windows:
    """The last `KEPT` windows. ready: called with each that is full."""

    def __init__(self, ready: Callable[[Window], None]) -> None:
        self.last: deque[Window] = deque(maxlen=KEPT)
        self._ready = ready
        self._begin()

    def _begin(self) -> None:
        self._tokens = self._verifications = self._forwards = self._verified = self._accepted = 0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float, *, verification: bool, verified: int, accepted: int) -> None:
        """Take a session's decision of `tokens` tokens, `seconds` after the one before it."""
        if seconds > MOST_S:
            return
        self._tokens += tokens
        self._seconds += seconds
        self._verifications += verification
        self._forwards += 1
        self._verified += verified
        self._accepted += accepted
        if self._tokens >= TOKENS:
            window = Window(
                self._tokens, self._seconds, self._verifications, self._forwards, self._verified, self._accepted
            )
            self.last.append(window)
            self._begin()
            self._ready(window)

    def mean(self, windows: int) -> Window | None:
        """The last few windows as one. None: none is full yet."""
        last = list(self.last)[-windows:]
        if not last:
            return None
        return Window(
            sum(w.tokens for w in last),
            sum(w.seconds for w in last),
            sum(w.verifications for w in last),
            sum(w.forwards for w in last),
            sum(w.verified for w in last),
            sum(w.accepted for w in last),
        )
