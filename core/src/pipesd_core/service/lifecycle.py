"""Whether a program takes on work, and whether it has any: what readiness, and the drain after SIGTERM, go by."""

from __future__ import annotations

from typing import Protocol

from pipesd_core.errors import Unavailable


class Draining(Unavailable):
    retry_after_s = 5
    """By then another instance has taken the place of this one, or this one is back."""


class Host(Protocol):
    """What a program has beside HTTP requests: agents and their sessions."""

    def sessions(self) -> int:
        """Those that a drain waits for."""
        ...

    def drain(self, deadline_s: float) -> None:
        """The program ends when nothing runs any more, or after so many seconds."""
        ...

    async def aclose(self) -> None:
        """It ends now."""
        ...


class Lifecycle:
    """One program's.

    Attributes:
        requests: HTTP requests under way; counted by `http`.
        draining: set by a signal; `drain` follows.
        host: None where there are HTTP requests only.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.draining = False
        self.host: Host | None = None

    @property
    def idle(self) -> bool:
        return self.requests == 0 and (self.host is None or self.host.sessions() == 0)

    def admit(self) -> None:
        """A request or session wants to begin. Raises Draining."""
        if self.draining:
            raise Draining("the server is shutting down: what runs is finished, nothing new is begun; try again later")

    def drain(self, deadline_s: float) -> None:
        """Nothing new is begun; what runs has so many seconds."""
        if self.host is not None:
            self.host.drain(deadline_s)

    async def aclose(self) -> None:
        """The program ends now. Harmless when repeated."""
        if self.host is not None:
            await self.host.aclose()
