"""Whether a program takes on work, and whether it has any: what readiness, and the drain after SIGTERM, go by."""

from __future__ import annotations

from collections.abc import Callable

from pipesd_gateway.exceptions import Unavailable


class Draining(Unavailable):
    retry_after_s = 5
    """By then another instance has taken the place of this one, or this one is back."""


class Life:
    """One program's.

    Args:
        sessions: how many run that are no HTTP requests.
    """

    def __init__(self, sessions: Callable[[], int] = lambda: 0) -> None:
        self._sessions = sessions
        self.requests = 0
        """HTTP requests under way; counted by `http`."""
        self.draining = False

    @property
    def idle(self) -> bool:
        return self.requests == 0 and self._sessions() == 0

    def admit(self) -> None:
        """A request or session wants to begin. Raises Draining."""
        if self.draining:
            raise Draining("the server is shutting down: what runs is finished, nothing new is begun; try again later")
