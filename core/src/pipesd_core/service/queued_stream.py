"""A streamed request that waits for its turn: after a while its client gets the headers, and comments until it begins.

Many clients, and proxies in between, give up a connection on which nothing comes. Before that moment a failure is
an HTTP status; after it, an error event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

from starlette.requests import Request

from pipesd_core.service.http import ClientGone, disconnected

PATIENCE_S: Final = 2.0
"""Time in the queue after which the headers go out."""
QUEUED: Final = b": queued\n\n"
"""The comment that goes out with them; those of `EventStream` follow."""

T = TypeVar("T")


class Beginning(Generic[T]):
    """The work after which the events of an answer begin: perhaps done, perhaps still waiting for its turn.

    Args:
        work: cancelled when nobody wants its result any more.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(_retrieve)

    @property
    def done(self) -> bool:
        return self._task.done()

    async def reached(self, request: Request, queued: asyncio.Event) -> None:
        """Wait until the work is done, or has been in the queue, since `queued`, for PATIENCE_S.

        Raises what the work raises, and ClientGone.
        """
        watch, patience = asyncio.create_task(disconnected(request)), asyncio.create_task(_elapse(queued))
        try:
            await asyncio.wait({self._task, watch, patience}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
            elif watch.done():
                raise ClientGone
        finally:
            watch.cancel()
            patience.cancel()
            await asyncio.gather(watch, patience, return_exceptions=True)

    async def result(self) -> T:
        """The result of the work. Raises what it raises; cancelling the call cancels the work."""
        return await self._task

    def cancel(self) -> None:
        """Cancel the work. Harmless when it is done."""
        self._task.cancel()

    async def unwanted(self) -> T | None:
        """Cancel the work; returns what it has made all the same, for the caller to release. None: nothing."""
        self._task.cancel()
        (made,) = await asyncio.gather(self._task, return_exceptions=True)
        return None if isinstance(made, BaseException) else made


async def _elapse(queued: asyncio.Event) -> None:
    await queued.wait()
    await asyncio.sleep(PATIENCE_S)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not warn where nobody awaits it any more
