"""Coalesces rounds: those asked for in one turn of the event loop travel to the engine core in one call.

So sessions that are verified together stay together: sent one by one they would split over several engine steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

Order = tuple[str, list[int], int, float]
"""A round of a session: park key, drafts, steps ahead, and when it was asked for (`time.monotonic`, which is one clock
for all processes of a machine)."""
Verify = Callable[[list[Order]], Awaitable[list[str]]]


class RpcCoalescer:
    """Owns the calls under way; makes at most one for each turn of the loop."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._waiting: list[tuple[Order, asyncio.Future[str]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def submit(self, key: str, drafts: Sequence[int], ahead: int = 0) -> asyncio.Future[str]:
        """Order a round. The result: "ok", or why the engine core refuses it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(((key, list(drafts), ahead, time.monotonic()), answer))
        return answer

    def _flush(self) -> None:
        call = asyncio.create_task(self._send(self._waiting))
        self._waiting = []
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _send(self, batch: list[tuple[Order, asyncio.Future[str]]]) -> None:
        try:
            results = await self._verify([order for order, _ in batch])
            if len(results) != len(batch):
                raise ValueError(f"{len(results)} results for {len(batch)} orders")
        except Exception as error:  # every waiter gets it, whatever it is
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(result)
