"""Readiness and graceful shutdown: counts the work under way, and refuses new work while the program drains."""

from __future__ import annotations

import time
from typing import Protocol

from pipesd_core.errors import ShuttingDown


class Host(Protocol):
    """The work of a program beside HTTP requests: agents and their sessions."""

    def sessions(self) -> int:
        """Number of sessions that a drain waits for."""
        ...

    def drain(self, deadline_s: float) -> None:
        """Announce the end: the program ends when nothing runs any more, or after `deadline_s` seconds."""
        ...

    def hang_up(self) -> None:
        """End now, without a wait for who is told so."""
        ...

    async def aclose(self) -> None:
        """End now."""
        ...


class Lifecycle:
    """The lifecycle of one program.

    Attributes:
        requests: HTTP requests under way; counted by `http`.
        draining: set by a signal; `drain` follows.
        host: None where there are HTTP requests only.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.draining = False
        self.host: Host | None = None
        self._ends_by = 0.0

    @property
    def idle(self) -> bool:
        return self.requests == 0 and (self.host is None or self.host.sessions() == 0)

    def admit(self) -> None:
        """Admit a new request or session. Raises ShuttingDown."""
        if self.draining:
            refusal = ShuttingDown(
                "the server is shutting down: what runs is finished, nothing new is begun; try again later"
            )
            # Before its end there is no other one at this address.
            refusal.retry_after_s = max(refusal.retry_after_s, self._ends_by - time.monotonic())
            raise refusal

    def drain(self, deadline_s: float) -> None:
        """Begin the drain: what runs has `deadline_s` seconds."""
        self._ends_by = time.monotonic() + deadline_s
        if self.host is not None:
            self.host.drain(deadline_s)

    def hang_up(self) -> None:
        """End the work of the host at once; `aclose` is still to be called. Harmless when repeated."""
        if self.host is not None:
            self.host.hang_up()

    async def aclose(self) -> None:
        """End the work of the host. Harmless when repeated."""
        if self.host is not None:
            await self.host.aclose()
