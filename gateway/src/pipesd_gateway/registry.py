"""Registry of a server's sessions, whichever connection they began on: `Resume` finds its session here.

A session belongs to the API key that opened it (`quota.Share.owner`): to any other it does not exist.
"""

from __future__ import annotations

import hmac
import itertools
from typing import Protocol

from msgspec import Struct

from pipesd_gateway.session import GatewaySession


class Holder(Protocol):
    """A connection, lost or not, that holds sessions. number: higher than that of every older one."""

    @property
    def number(self) -> int: ...

    def surrender(self, session: GatewaySession) -> None:
        """Give the session to another connection; a holder that believes itself alive is not."""


class SessionLocation(Struct, frozen=True):
    """A session with its owner, and the connection that holds it."""

    session: GatewaySession
    owner: bytes
    holder: Holder


class Registry:
    """All sessions of a server that can be resumed, ended ones included."""

    def __init__(self) -> None:
        self._locations: dict[bytes, SessionLocation] = {}
        self._numbers = itertools.count()

    def number(self) -> int:
        """The number of a new connection."""
        return next(self._numbers)

    def __len__(self) -> int:
        return len(self._locations)

    def put(self, session: GatewaySession, owner: bytes, holder: Holder) -> None:
        """Note the connection that holds a session now."""
        self._locations[session.session_id] = SessionLocation(session, owner, holder)

    def find(self, session_id: bytes, owner: bytes) -> SessionLocation | None:
        """The session's location; None where it is unknown, or somebody else's."""
        location = self._locations.get(session_id)
        return location if location is not None and hmac.compare_digest(location.owner, owner) else None

    def has(self, owner: bytes) -> bool:
        """Whether an owner has any session."""
        return any(hmac.compare_digest(location.owner, owner) for location in self._locations.values())

    def drop(self, session: GatewaySession) -> None:
        """Forget a session that cannot be resumed any more. Harmless when repeated."""
        self._locations.pop(session.session_id, None)
