"""The tuners' searches in the background: a thread waits for one worker process, which serves all tuners.

The event loop never waits: `submit` and `result` return at once. Nor does a token: a Gaussian process that is fitted in
another thread of the agent would hold the interpreter's lock for some milliseconds at a time. A search that fails, or
takes for ever, leaves the thresholds as they are, and is tried again some time later.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Final, Protocol

from msgspec.structs import replace

from pipesd_agent.tuning.search import Optimizer, SearchResult, SearchTask, search

log = logging.getLogger(__name__)

IDLE_S: Final = 600.0
"""After so long without a search the worker is released (140 MB with scikit-optimize), until there is one."""


RETRY_FIRST_S: Final = 60.0
"""After a search that failed its proposer begins no other one for so long; doubled with each further failure."""
RETRY_LAST_S: Final = 3600.0


class SearchWorker(Protocol):
    """Carries out searches; called on a thread that has time to wait."""

    def search(self, task: SearchTask) -> SearchResult:
        """Carry out one search. Any exception is told to the proposer that asked for it."""

    def release(self) -> None:
        """Free what the worker holds; another search may follow. From any thread, and also during a search."""


class Background:
    """One worker for any number of proposers, and the daemon thread that waits for it, started with the first search.

    Searches are carried out one after the other, so that there is one process at most. Where one fails, its proposer
    pauses, and the others go on. A thread that died is started again by the next search.
    """

    def __init__(self, worker: SearchWorker) -> None:
        self._worker = worker
        self._tasks: queue.Queue[tuple[BackgroundProposer, SearchTask] | None] = queue.Queue()
        """One task of each proposer at most, and the end."""
        self._proposers: list[BackgroundProposer] = []
        self._thread: threading.Thread | None = None

    def proposer(self) -> BackgroundProposer:
        """A new proposer."""
        made = BackgroundProposer(self)
        self._proposers.append(made)
        return made

    def submit(self, proposer: BackgroundProposer, task: SearchTask) -> None:
        """Have `task` carried out for `proposer`, which calls this."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="tuner", daemon=True)
            self._thread.start()
        self._tasks.put_nowait((proposer, task))

    def leave(self, proposer: BackgroundProposer) -> None:
        """Forget a proposer, which calls this when closed. The last one ends the thread and a search under way."""
        if proposer in self._proposers:
            self._proposers.remove(proposer)
            if not self._proposers:
                self._tasks.put_nowait(None)
                self._release()

    def _run(self) -> None:
        try:
            while True:
                try:
                    asked = self._tasks.get(timeout=IDLE_S)
                except queue.Empty:
                    self._release()
                    continue
                if asked is None:
                    return
                proposer, task = asked
                if not proposer.closed:
                    self._carry_out(proposer, task)
        except Exception as error:
            for proposer in list(self._proposers):
                proposer.pause(error)
        finally:
            self._release()

    def _carry_out(self, proposer: BackgroundProposer, task: SearchTask) -> None:
        try:
            proposer.done(self._worker.search(task))
        except Exception as error:
            # Whatever broke it (a library that does not fit included), sessions go on without it.
            proposer.pause(error)
            self._release()

    def _release(self) -> None:
        try:
            self._worker.release()
        except Exception:
            log.exception("tuner: what searched could not be ended")


class BackgroundProposer:
    """A `Proposer` whose searches a `Background` carries out.

    Attributes:
        failed: why the last search failed, or "closed"; "" while there is another one, or it was carried out.
        closed: no more searches.
    """

    def __init__(self, background: Background) -> None:
        self.failed = ""
        self.closed = False
        self._logged = ""
        self._retry_s = RETRY_FIRST_S
        self._retry_at = 0.0
        self._background = background
        self._results: queue.Queue[SearchResult] = queue.Queue(1)
        self._busy = False

    def submit(self, task: SearchTask) -> bool:
        if self._busy or self.closed or time.monotonic() < self._retry_at:
            return False
        self._busy = True
        self.failed = ""
        self._background.submit(self, task)
        return True

    def result(self) -> SearchResult | None:
        try:
            done = self._results.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        return done

    def done(self, result: SearchResult) -> None:
        """Hand over the result of what was submitted; on the background's thread."""
        self._logged, self._retry_s = "", RETRY_FIRST_S
        self._results.put_nowait(result)

    def pause(self, error: Exception) -> None:
        """The search failed: begin none for a while; on the background's thread, while the exception is handled."""
        if self.closed:
            return
        why = f"{type(error).__name__}: {error}"
        if why != self._logged:
            log.exception("tuner: a search failed, thresholds stay as they are; the next one in %g s", self._retry_s)
        self._logged = why
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LAST_S)
        self._busy = False
        self.failed = why

    def close(self) -> None:
        """End: no more searches; one under way is broken off, unless the worker has other proposers."""
        self.closed = True
        self.failed = self.failed or "closed"
        self._background.leave(self)


def timed_search(task: SearchTask, optimizer: Optimizer) -> SearchResult:
    """Carry out a search, with the CPU time that it took in this thread."""
    began = time.thread_time()
    done = search(task, optimizer)
    return replace(done, cpu_s=time.thread_time() - began)
