"""Searches in a child process of low priority: the agent's interpreter has tokens to pass on meanwhile.

`WorkerProcess` is the parent's end. `python -m pipesd_agent.tuning.worker_process bayes|search` is the child, which
carries out each search that comes in with that optimizer, and ends with its standard input.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import Final

from pipesd_agent.tuning.background import timed_search
from pipesd_agent.tuning.optimizers.choice import MAKERS, OptimizerName
from pipesd_agent.tuning.search import MakeOptimizer, SearchResult, SearchTask

SEARCH_LIMIT_S: Final = 120.0
"""Longest search, the child's start included; it takes a second or two."""
NICE: Final = 10


class WorkerProcess:
    """A `SearchWorker` in a process of its own, which starts with the first search."""

    def __init__(self, optimizer: OptimizerName) -> None:
        self._optimizer = optimizer
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def search(self, task: SearchTask) -> SearchResult:
        """Carry out one search. Raises RuntimeError where the child fails, or ends."""
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(SEARCH_LIMIT_S, process.kill)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(task, process.stdin)
            process.stdin.flush()
            done = pickle.load(process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise RuntimeError(f"the tuner's process ended with status {process.poll()}") from error
        finally:
            timer.cancel()
        if isinstance(done, SearchResult):
            return done
        raise RuntimeError(f"the tuner's process failed: {done}")

    def release(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what was not written yet
                    if pipe is not None:
                        pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipesd_agent.tuning.worker_process", self._optimizer],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )
            return self._process


def main(make: MakeOptimizer) -> None:
    """Carry out the searches that come in on standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal, or systemd, means the parent, which drains
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)
    reading, writing = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            task = pickle.load(reading)
        except EOFError:
            return
        try:
            done: SearchResult | str = timed_search(task, make(task.seed))
        except Exception as error:  # the parent logs it
            done = f"{type(error).__name__}: {error}"
        pickle.dump(done, writing)
        writing.flush()


if __name__ == "__main__":
    main(MAKERS[sys.argv[1]])
