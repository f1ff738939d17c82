"""How many sessions one API key may have, over all agents' connections of a server.

Where a server has no keys nobody can be told from anybody else: then all share one count, and the limit is the
server's. Keys are not kept, only digests under a secret of this process.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from pipesd_gateway.exceptions import Overloaded

MAX_SESSIONS_PER_KEY: Final = 256
"""Unless the operator says otherwise."""
RETRY_AFTER_S: Final = 1


class Quota:
    """The count of a server.

    Args:
        limit: most sessions of one key, those included that wait for the engine.
    """

    def __init__(self, limit: int = MAX_SESSIONS_PER_KEY) -> None:
        if limit < 1:
            raise ValueError(f"the limit of sessions must be at least 1, but is {limit}")
        self._limit = limit
        self._secret = secrets.token_bytes(32)
        self._taken: dict[bytes, int] = {}

    @property
    def taken(self) -> int:
        """Sessions of all keys."""
        return sum(self._taken.values())

    def share(self, key: str | None) -> Share:
        """The part of the count that is a key's. None: the server has no keys."""
        owner = b"" if key is None else hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest()
        return Share(owner, self._limit, self._taken)


class Share:
    """What one connection takes from its key's count, and gives back: once for each session."""

    def __init__(self, owner: bytes, limit: int, taken: dict[bytes, int]) -> None:
        self._owner = owner
        self._limit = limit
        self._taken = taken

    @property
    def owner(self) -> bytes:
        """Tells keys apart, and tells nothing else of them."""
        return self._owner

    @property
    def taken(self) -> int:
        """Sessions of this key now, those of its other connections included."""
        return self._taken.get(self._owner, 0)

    def acquire(self) -> None:
        """A session begins. Raises Overloaded where it would be one too many; then there is nothing to give back."""
        if self.taken >= self._limit:
            whose = "with this API key" if self._owner else "on this server, which has no API keys"
            raise Overloaded(
                f"{self.taken} sessions are open {whose}; the limit is {self._limit}: wait until one of them ends",
                retry_after_s=RETRY_AFTER_S,
            )
        self._taken[self._owner] = self.taken + 1

    def release(self) -> None:
        """A session has ended."""
        left = self._taken.pop(self._owner) - 1  # KeyError: given back once too often
        if left:
            self._taken[self._owner] = left
