"""A fixed number of places and a fair, bounded queue for them. On the event loop's thread only."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from pipesd_core.errors import ApiError, Overloaded

RETRY_AFTER_S: Final = 2


class Places:
    """`count` places; at most `max_queue` calls of `take` wait for one, first come first served."""

    def __init__(self, count: int, max_queue: int) -> None:
        self.count: Final = count
        self.max_queue: Final = max_queue
        self.free = count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed: ApiError | None = None

    @property
    def queued(self) -> int:
        """Calls of `take` that wait."""
        return len(self._waiting)

    async def take(self) -> None:
        """Get a place. Cancelling gives it, or the place in the queue, back.

        Raises Overloaded when the queue is full, and the reason given to `close` after that.
        """
        if self._closed:
            raise self._closed
        if self.free:
            self.free -= 1
            return
        if len(self._waiting) >= self.max_queue:
            raise Overloaded(
                f"all {self.count} places of the target are taken and {len(self._waiting)} requests wait already, "
                f"which is the limit: try again in {RETRY_AFTER_S} s",
                retry_after_s=RETRY_AFTER_S,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self.give_back()  # cancelled between its turn and its waking up
            raise
        if self._closed:
            raise self._closed

    def give_back(self) -> None:
        """Free a place: the one who has waited longest gets it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1

    def close(self, reason: ApiError) -> None:
        """Whoever waits, or asks from now on, gets `reason`."""
        self._closed = reason
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(reason)
        self._waiting.clear()
