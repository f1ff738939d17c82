"""How many bytes a draft message is, by how many tokens it carries."""

from __future__ import annotations

from typing import Final

KEPT: Final = 0.99
ID_BYTES: Final = 2.6
"""Of a token's id, before messages of several lengths have told."""
EMPTY_BYTES: Final = 16.0
PRIOR_WEIGHT: Final = 20.0


class Frames:
    """bytes = empty + token * tokens, by weighted least squares."""

    def __init__(self) -> None:
        self._weight = self._tokens = self._size = self._squares = self._products = 0.0

    def sent(self, tokens: int, size: int) -> None:
        self._weight = KEPT * self._weight + 1
        self._tokens = KEPT * self._tokens + tokens
        self._size = KEPT * self._size + size
        self._squares = KEPT * self._squares + tokens * tokens
        self._products = KEPT * self._products + tokens * size

    @property
    def token_bytes(self) -> float:
        if not self._weight:
            return ID_BYTES
        spread = self._squares - self._tokens * self._tokens / self._weight
        together = self._products - self._tokens * self._size / self._weight
        return max(0.0, (together + PRIOR_WEIGHT * ID_BYTES) / (spread + PRIOR_WEIGHT))

    @property
    def empty_bytes(self) -> float:
        if not self._weight:
            return EMPTY_BYTES
        return max(0.0, (self._size - self.token_bytes * self._tokens) / self._weight)
