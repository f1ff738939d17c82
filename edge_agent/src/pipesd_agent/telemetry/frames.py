"""Estimates the size of draft messages: a header, and some bytes for each token."""

from __future__ import annotations

from typing import Final

from pipesd_agent.telemetry.faded_line import FadedLine

KEPT: Final = 0.99
ID_BYTES: Final = 2.6
"""Bytes of a token's id, before messages of several lengths have told."""
EMPTY_BYTES: Final = 16.0
PRIOR_WEIGHT: Final = 20.0


class Frames:
    """bytes = empty_bytes + token_bytes * tokens."""

    def __init__(self) -> None:
        self._line = FadedLine(KEPT, ID_BYTES, PRIOR_WEIGHT)

    def sent(self, tokens: int, size: int) -> None:
        """Take a message of `tokens` tokens that had `size` bytes."""
        self._line.add(tokens, size)

    @property
    def token_bytes(self) -> float:
        """Bytes of a further token."""
        return self._line.slope

    @property
    def empty_bytes(self) -> float:
        """Bytes of a message without tokens."""
        empty = self._line.intercept(self._line.slope)
        return EMPTY_BYTES if empty is None else empty
