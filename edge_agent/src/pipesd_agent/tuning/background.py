"""Who does the tuners' studies: a process that a thread waits for, one for all of them.

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
"""Without a study, after which the student is let go (140 MB with scikit-optimize) until there is one."""


class Student(Protocol):
    """Does studies on a thread that has time to wait."""

    def study(self, task: Task) -> Studied:
        """Any exception is the end of it."""

    def let_go(self) -> None:
        """Free what it holds; another study may follow. From any thread, and also in the middle of a study."""


class Background:
    """One student for any number of proposers, and the daemon thread that waits for it, begun with the first study.

    Studies are done one after the other, so that there is one process at most. Where one fails, its proposer has, and
    the others go on.
    """

    def __init__(self, student: Student) -> None:
        self._student = student
        self._tasks: queue.Queue[tuple[InThread, Task] | None] = queue.Queue()
        """One task of each proposer at most, and the end."""
        self._proposers: list[InThread] = []
        self._thread: threading.Thread | None = None

    def proposer(self) -> InThread:
        """A new one."""
        made = InThread(self)
        self._proposers.append(made)
        return made

    def submit(self, proposer: InThread, task: Task) -> None:
        """Of a proposer: have this studied for it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tuner", daemon=True)
            self._thread.start()
        self._tasks.put_nowait((proposer, task))

    def leave(self, proposer: InThread) -> None:
        """Of a proposer that is closed. With the last one the thread ends; a study under way is broken off."""
        if proposer in self._proposers:
            self._proposers.remove(proposer)
            if not self._proposers:
                self._tasks.put_nowait(None)
                self._student.let_go()

    def _run(self) -> None:
        try:
            while True:
                try:
                    asked = self._tasks.get(timeout=IDLE_S)
                except queue.Empty:
                    self._student.let_go()
                    continue
                if asked is None:
                    return
                proposer, task = asked
                if not proposer.failed:
                    self._study(proposer, task)
        except Exception as error:
            for proposer in list(self._proposers):
                proposer.failed = proposer.failed or f"{type(error).__name__}: {error}"
            log.exception("the tuner's thread died: thresholds stay as they are")
        finally:
            self._student.let_go()

    def _study(self, proposer: InThread, task: Task) -> None:
        try:
            proposer.done(self._student.study(task))
        except Exception as error:
            # Whatever broke it (a library that does not fit included), sessions go on without it.
            if not proposer.failed:
                proposer.failed = f"{type(error).__name__}: {error}"
                log.exception("a study of the tuner failed: thresholds stay as they are")
            self._student.let_go()


class InThread:
    """A proposer of a `Background`."""

    def __init__(self, background: Background) -> None:
        self.failed = ""
        self._background = background
        self._results: queue.Queue[Studied] = queue.Queue(1)
        self._busy = False

    def submit(self, task: Task) -> bool:
        if self._busy or self.failed:
            return False
        self._busy = True
        self._background.submit(self, task)
        return True

    def result(self) -> Studied | None:
        try:
            done = self._results.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        return done

    def done(self, studied: Studied) -> None:
        """Of the background's thread: what was submitted."""
        self._results.put_nowait(studied)

    def close(self) -> None:
        """No more studies; one under way is broken off, unless the student has other proposers."""
        self.failed = self.failed or "closed"
        self._background.leave(self)


def timed(task: Task, optimizer: Optimizer) -> Studied:
    """A study, and the CPU time that it took in this thread."""
    began = time.thread_time()
    done = study(task, optimizer)
    return replace(done, cpu_s=time.thread_time() - began)
