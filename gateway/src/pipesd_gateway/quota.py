"""How many sessions one API key may have, over all agents' connections of a server, and how many such connections.

Where a server has no keys nobody can be told from anybody else: then all share one count, and the limit is the
server's. Keys are not kept, only digests under a secret of this process.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipesd_core.errors import Overloaded

MAX_SESSIONS_PER_KEY: Final = 256
"""Unless the operator says otherwise."""
MAX_CONNECTIONS_PER_KEY: Final = 256
"""WebSockets of agents; or as many as sessions, where the operator allows more of those."""
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
        self._connected: dict[bytes, int] = {}

    @property
    def taken(self) -> int:
        """Sessions of all keys."""
        return sum(self._taken.values())

    def share(self, key: str | None) -> Share:
        """The part of the count that is a key's. None: the server has no keys."""
        owner = b"" if key is None else hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest()
        return Share(owner, self._limit, self._taken, self._connected)


class Share:
    """What one connection takes from its key's count, and gives back: once for each session."""

    def __init__(self, owner: bytes, limit: int, taken: dict[bytes, int], connected: dict[bytes, int]) -> None:
        self._owner = owner
        self._limit = limit
        self._taken = taken
        self._connected = connected

    @property
    def owner(self) -> bytes:
        """Tells keys apart, and tells nothing else of them."""
        return self._owner

    @property
    def taken(self) -> int:
        """Sessions of this key now, those of its other connections included."""
        return self._taken.get(self._owner, 0)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """As long as an agent is connected. Raises Overloaded where it would be one too many."""
        count, limit = self._connected.get(self._owner, 0), max(MAX_CONNECTIONS_PER_KEY, self._limit)
        if count >= limit:
            raise Overloaded(
                f"{count} agents are connected {self._whose}; the limit is {limit}: wait until one of them leaves",
                retry_after_s=RETRY_AFTER_S,
            )
        self._connected[self._owner] = count + 1
        try:
            yield
        finally:
            left = self._connected.pop(self._owner) - 1
            if left:
                self._connected[self._owner] = left

    def acquire(self) -> None:
        """A session begins. Raises Overloaded where it would be one too many; then there is nothing to give back."""
        if self.taken >= self._limit:
            raise Overloaded(
                f"{self.taken} sessions are open {self._whose}; the limit is {self._limit}: "
                "wait until one of them ends",
                retry_after_s=RETRY_AFTER_S,
            )
        self._taken[self._owner] = self.taken + 1

    @property
    def _whose(self) -> str:
        return "with this API key" if self._owner else "on this server, which has no API keys"

    def release(self) -> None:
        """A session has ended."""
        left = self._taken.pop(self._owner) - 1  # KeyError: given back once too often
        if left:
            self._taken[self._owner] = left
