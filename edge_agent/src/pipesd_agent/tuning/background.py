"""Who does the tuner's studies: a process of its own that a thread waits for.

The event loop never waits: `submit` and `result` return at once. Nor does a token: a Gaussian process that is fitted in
another thread of the agent would hold the interpreter's lock for some milliseconds at a time. A study that fails, or
takes for ever, leaves the thresholds as they are.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Final, Protocol

from msgspec.structs import replace

from pipesd_agent.tuning.search import Optimizer, Studied, Task, study

log = logging.getLogger(__name__)

IDLE_S: Final = 600.0
"""Without a study, after which the student is let go (150 MB) until there is one."""


class Student(Protocol):
    """Does studies on a thread that has time to wait."""

    def study(self, task: Task) -> Studied:
        """Any exception is the end of it."""

    def let_go(self) -> None:
        """Free what it holds; another study may follow. From any thread, and also in the middle of a study."""


class Proposer(Protocol):
    """Does one study at a time."""

    failed: str
    """What broke it for good; empty: nothing."""

    def submit(self, task: Task) -> bool:
        """Begin a study. False: it has one, or has failed."""

    def result(self) -> Studied | None:
        """The study that was done since the last call; None: there is none."""

    def close(self) -> None:
        """No more studies."""


class InThread:
    """One daemon thread, begun with the first study."""

    def __init__(self, student: Student) -> None:
        self.failed = ""
        self._student = student
        self._tasks: queue.Queue[Task | None] = queue.Queue(1)
        self._results: queue.Queue[Studied] = queue.Queue(1)
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> bool:
        if self._busy or self.failed:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tuner", daemon=True)
            self._thread.start()
        self._busy = True
        self._tasks.put_nowait(task)
        return True

    def result(self) -> Studied | None:
        try:
            done = self._results.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        return done

    def close(self) -> None:
        """No more studies; one under way is broken off."""
        self.failed = self.failed or "closed"
        if not self._tasks.full():
            self._tasks.put_nowait(None)
        self._student.let_go()

    def _run(self) -> None:
        try:
            while not self.failed:
                try:
                    task = self._tasks.get(timeout=IDLE_S)
                except queue.Empty:
                    self._student.let_go()
                    continue
                if task is None or self.failed:
                    return
                self._results.put_nowait(self._student.study(task))
        except Exception as error:
            # Whatever broke it (a library that does not fit included), sessions go on without it.
            if not self.failed:
                self.failed = f"{type(error).__name__}: {error}"
                log.exception("the tuner's thread died: thresholds stay as they are")
        finally:
            self._student.let_go()


def timed(task: Task, optimizer: Optimizer) -> Studied:
    """A study, and the CPU time that it took in this thread."""
    began = time.thread_time()
    done = study(task, optimizer)
    return replace(done, cpu_s=time.thread_time() - began)
