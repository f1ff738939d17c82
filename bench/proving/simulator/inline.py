"""The tuner's studies in virtual time: no thread, no process."""

from __future__ import annotations

from pipesd_agent.tuning.background import timed_search
from pipesd_agent.tuning.search import MakeOptimizer, SearchResult, SearchTask


class Inline:
    """Done at once, by whoever submits it. Implements `Proposer`."""

    def __init__(self, make: MakeOptimizer) -> None:
        self.failed = ""
        self._make = make
        self._done: SearchResult | None = None

    def submit(self, task: SearchTask) -> bool:
        if self._done is not None or self.failed:
            return False
        self._done = timed_search(task, self._make(task.seed))
        return True

    def result(self) -> SearchResult | None:
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self.failed = self.failed or "closed"
