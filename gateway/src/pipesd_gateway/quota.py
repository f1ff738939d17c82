"""Limits of one API key: its sessions over all agents' connections of a server, and the number of such connections.

On a server without keys clients cannot be told apart: then all share one count, and the limit is the server's. Keys
are not kept, only digests under a secret of this process.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipesd_core.errors import Overloaded
from pipesd_core.occupancy import Occupancy

MAX_SESSIONS_PER_KEY: Final = 256
"""Default limit of sessions."""
MAX_CONNECTIONS_PER_KEY: Final = 256
"""Limit of agents' WebSockets; or the limit of sessions, where the operator has made that larger."""


class Quota:
    """The session counts of a server.

    Args:
        limit: most sessions of one key, those included that wait for the engine.
    """

    def __init__(self, limit: int = MAX_SESSIONS_PER_KEY) -> None:
        if limit < 1:
            raise ValueError(f"the limit of sessions must be at least 1, but is {limit}")
        self._limit = limit
        self._secret = secrets.token_bytes(32)
        self._taken: dict[bytes, Occupancy] = {}
        self._connected: dict[bytes, Occupancy] = {}

    @property
    def taken(self) -> int:
        """Number of sessions of all keys."""
        return sum(sessions.taken for sessions in self._taken.values())

    def share(self, key: str | None) -> Share:
        """The part of the count that is a key's. None: the server has no keys."""
        owner = b"" if key is None else hashlib.blake2b(key.encode(), key=self._secret, digest_size=16).digest()
        return Share(owner, self._limit, self._taken, self._connected)


class Share:
    """One connection's view of its key's count: takes from it and gives back, once for each session."""

    def __init__(
        self, owner: bytes, limit: int, taken: dict[bytes, Occupancy], connected: dict[bytes, Occupancy]
    ) -> None:
        self._owner = owner
        self._limit = limit
        self._taken = taken
        self._connected = connected

    @property
    def owner(self) -> bytes:
        """A digest that tells keys apart, and tells nothing else of them."""
        return self._owner

    @property
    def taken(self) -> int:
        """Number of sessions of this key now, those of its other connections included."""
        return self._taken[self._owner].taken if self._owner in self._taken else 0

    @property
    def wait_s(self) -> float:
        """Expected seconds until one of them ends."""
        return self._taken[self._owner].wait_s() if self._owner in self._taken else 0

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Count the connection for the duration of the context. Raises Overloaded where it is one too many."""
        connected, limit = self._connected.get(self._owner), max(MAX_CONNECTIONS_PER_KEY, self._limit)
        if connected is not None and connected.taken >= limit:
            raise Overloaded(
                f"{connected.taken} agents are connected {self._whose}; the limit is {limit}: "
                "wait until one of them leaves",
                retry_after_s=connected.wait_s(),
            )
        _take(self._connected, self._owner)
        try:
            yield
        finally:
            _free(self._connected, self._owner)

    def acquire(self) -> None:
        """Count a new session. Raises Overloaded where it is one too many; then there is nothing to give back."""
        if self.taken >= self._limit:
            raise Overloaded(
                f"{self.taken} sessions are open {self._whose}; the limit is {self._limit}: "
                "wait until one of them ends",
                retry_after_s=self.wait_s,
            )
        _take(self._taken, self._owner)

    @property
    def _whose(self) -> str:
        return "with this API key" if self._owner else "on this server, which has no API keys"

    def release(self) -> None:
        """Give an ended session back."""
        _free(self._taken, self._owner)


def _take(places: dict[bytes, Occupancy], owner: bytes) -> None:
    places.setdefault(owner, Occupancy()).take()


def _free(places: dict[bytes, Occupancy], owner: bytes) -> None:
    """Free a place; an owner that has none any more is forgotten. KeyError: freed once too often."""
    places[owner].free()
    if not places[owner].taken:
        del places[owner]
