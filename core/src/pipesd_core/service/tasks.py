"""The background tasks of a program: each has an owner that starts it again, and until it runs, `/ready` names it.

A task that nobody awaits dies without a word, and what it did is missing from then on: a list that stays empty, figures
that stand still. So every task that runs as long as its program is started here. Threads and processes are watched:
where their owner cannot start them again, they too are named.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pipesd_core.errors import Unavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
"""Longest pause before the first new start of a task; doubled with each further one."""
LONGEST_PAUSE_S: Final = 30.0
STEADY_S: Final = 5.0
"""A task that has run for so long runs again; one that dies sooner has never been back."""

Work = Callable[[], Coroutine[Any, Any, None]]


class Tasks:
    """The tasks of one program. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._down: dict[str, str] = {}
        self._watched: dict[str, Callable[[], str | None]] = {}

    def start(self, name: str, work: Work) -> None:
        """Start a task, and start it again, with growing pauses, whenever it dies or ends, until `aclose`."""
        task = self._tasks[name] = asyncio.create_task(self._keep(name, work), name=name)
        task.add_done_callback(lambda done: self._owner_done(name, done))

    def watch(self, name: str, fault: Callable[[], str | None]) -> None:
        """Name what runs in a thread, or a process, as well. fault: why it runs no more; None: it runs."""
        self._watched[name] = fault

    @property
    def faults(self) -> dict[str, str]:
        """Why each part that is down is so, by name."""
        watched = {name: why for name, fault in self._watched.items() if (why := fault()) is not None}
        return self._down | watched

    def check(self) -> None:
        """Raise Unavailable, which names what is down, if anything is."""
        if faults := self.faults:
            what = "; ".join(f"{name} ({why})" for name, why in faults.items())
            raise Unavailable(f"down in this program: {what}; see its log")

    async def aclose(self) -> None:
        """Cancel all tasks, and wait for them. Harmless when repeated."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, name: str, work: Work) -> None:
        pause, logged = FIRST_PAUSE_S, ""
        while True:
            began = time.monotonic()
            steady = asyncio.get_running_loop().call_later(STEADY_S, self._runs_again, name)
            error: BaseException | None = None
            try:
                await work()
            except asyncio.CancelledError as cancelled:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                error = cancelled  # not by us: something in there was cancelled, and nobody saw to it
            except Exception as died:
                error = died
            finally:
                steady.cancel()
            if time.monotonic() - began >= STEADY_S:
                pause, logged = FIRST_PAUSE_S, ""
            why = "it ended" if error is None else f"{type(error).__name__}: {error}".removesuffix(": ")
            self._down[name] = why
            if why != logged:  # else the log would fill with what it says already
                log.critical("the task %r died (%s); it is started again", name, why, exc_info=error)
            logged = why
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _runs_again(self, name: str) -> None:
        if self._down.pop(name, None) is not None:
            log.warning("the task %r runs again", name)

    def _owner_done(self, name: str, owner: asyncio.Task[None]) -> None:
        if not owner.cancelled() and (error := owner.exception()) is not None:
            self._down[name] = f"{type(error).__name__}: {error}"
            log.critical("the task %r died for good", name, exc_info=error)
