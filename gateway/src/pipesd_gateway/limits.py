"""Bounds of one session that an operator sets."""

from __future__ import annotations

from msgspec import Struct


class SessionLimits(Struct, frozen=True):
    """Bounds of one session, in seconds.

    park_timeout_s: a parked session whose connected edge is silent for longer goes on by itself.
    stall_timeout_s: a session held up by unacknowledged messages for longer is given up.
    grace_s: how long a session whose link is gone can be resumed; 0: not at all.
    """

    park_timeout_s: float = 5.0
    stall_timeout_s: float = 60.0
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        if self.park_timeout_s <= 0 or self.stall_timeout_s <= 0 or self.grace_s < 0:
            raise ValueError("timeouts of a session must be positive, and its grace time not negative")
