"""Where the sessions of a server are, whichever connection they began on: what `Resume` needs to find one.

A session belongs to the API key that opened it (`quota.Share.owner`): to any other it does not exist.
"""

from __future__ import annotations

import hmac
import itertools
from typing import Protocol

from msgspec import Struct

from pipesd_gateway.session import GatewaySession


class Holder(Protocol):
    """A connection, lost or not, that sessions are on. number: higher than that of every older one."""

    @property
    def number(self) -> int: ...

    def surrender(self, session: GatewaySession) -> None:
        """The session goes to another connection; a holder that believes itself alive is not."""


class SessionLocation(Struct, frozen=True):
    """A session and where it is."""

    session: GatewaySession
    owner: bytes
    holder: Holder


class Registry:
    """All sessions of a server that can be resumed, ended ones included."""

    def __init__(self) -> None:
        self._locations: dict[bytes, SessionLocation] = {}
        self._numbers = itertools.count()

    def number(self) -> int:
        """Of a new connection."""
        return next(self._numbers)

    def __len__(self) -> int:
        return len(self._locations)

    def put(self, session: GatewaySession, owner: bytes, holder: Holder) -> None:
        """Note where a session is now."""
        self._locations[session.session_id] = SessionLocation(session, owner, holder)

    def find(self, session_id: bytes, owner: bytes) -> SessionLocation | None:
        """The session's location; None where it is unknown, or somebody else's."""
        location = self._locations.get(session_id)
        return location if location is not None and hmac.compare_digest(location.owner, owner) else None

    def has(self, owner: bytes) -> bool:
        """Is there a session of this owner?"""
        return any(hmac.compare_digest(location.owner, owner) for location in self._locations.values())

    def drop(self, session: GatewaySession) -> None:
        """The session cannot be resumed any more. Harmless when repeated."""
        self._locations.pop(session.session_id, None)
