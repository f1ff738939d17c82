"""Admission of requests to the target: as many run at once as the KV cache has slots, the others wait in a queue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from pipesd_core.errors import ApiError, Overloaded
from pipesd_core.occupancy import Occupancy


class AdmissionQueue:
    """Bounded first-come-first-served queue for the slots of the KV cache. On the event loop's thread only.

    Args:
        n_slots: sequences that run at once.
        max_queue: calls of `acquire` that wait at most.
    """

    def __init__(self, n_slots: int, max_queue: int) -> None:
        self.n_slots: Final = n_slots
        self.max_queue: Final = max_queue
        self._slots = Occupancy()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed: ApiError | None = None

    @property
    def free_slots(self) -> int:
        """Number of slots that nobody has."""
        return self.n_slots - self._slots.taken

    @property
    def wait_s(self) -> float:
        """Expected seconds until whoever joined the queue now would get a slot."""
        return self._slots.wait_s(self.queued)

    @property
    def queued(self) -> int:
        """Number of calls of `acquire` that wait."""
        return len(self._waiting)

    async def acquire(self) -> None:
        """Get a slot. Cancelling the call gives the slot, or the place in the queue, back.

        Raises Overloaded when the queue is full, and the reason given to `close` after that.
        """
        if self._closed:
            raise self._closed
        if self.free_slots:
            self._slots.take()
            return
        if len(self._waiting) >= self.max_queue:
            raise Overloaded(
                f"all {self.n_slots} places of the target are taken and {len(self._waiting)} requests wait already, "
                "which is the limit: try again later",
                retry_after_s=self.wait_s,
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                self.release()  # cancelled between its turn and its waking up
            raise
        if self._closed:
            raise self._closed

    def release(self) -> None:
        """Free a slot; the call that has waited longest gets it."""
        self._slots.free()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._slots.take()
                turn.set_result(None)
                return

    def close(self, reason: ApiError) -> None:
        """Raise `reason` in every call of `acquire`, waiting or new."""
        self._closed = reason
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(reason)
        self._waiting.clear()
