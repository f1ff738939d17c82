"""Who does the tuner's studies: scikit-optimize, in a thread of its own, or where it is asked (virtual time).

The event loop never waits: `submit` and `result` return at once. A study that fails, or takes for ever, leaves
the thresholds as they are.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from pipesd_agent.study import MakeOptimizer, Optimizer, Point, Studied, Task, study

log = logging.getLogger(__name__)

XI: Final = 0.1
"""Of expected improvement, the paper's; in standard deviations of the objective."""
RESTARTS: Final = 0
"""Of the fit; skopt's two triple its time and find nothing better."""
POINTS: Final = 1000
"""At which the acquisition function is looked at."""


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


class Inline:
    """Done at once, by whoever submits it."""

    def __init__(self, make: MakeOptimizer) -> None:
        self.failed = ""
        self._make = make
        self._done: Studied | None = None

    def submit(self, task: Task) -> bool:
        if self._done is not None or self.failed:
            return False
        self._done = _timed(task, self._make(task.seed))
        return True

    def result(self) -> Studied | None:
        done, self._done = self._done, None
        return done

    def close(self) -> None:
        self.failed = self.failed or "closed"


class InThread:
    """One daemon thread, begun with the first study."""

    def __init__(self, make: MakeOptimizer) -> None:
        self.failed = ""
        self._make = make
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

    def close(self, timeout: float = 1.0) -> None:
        """No more studies; waits for the one that runs, but not for longer than `timeout`."""
        self.failed = self.failed or "closed"
        if self._thread is not None:
            try:
                self._tasks.put_nowait(None)
            except queue.Full:  # begun, but not looked at yet
                return
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                self._results.put_nowait(_timed(task, self._make(task.seed)))
        except Exception as error:
            # Whatever broke it (a library that does not fit included), sessions go on without it.
            self.failed = f"{type(error).__name__}: {error}"
            log.exception("the tuner's thread died: thresholds stay as they are")


def _timed(task: Task, optimizer: Optimizer) -> Studied:
    began = time.thread_time()
    done = study(task, optimizer)
    return replace(done, cpu_s=time.thread_time() - began)


class Skopt:
    """scikit-optimize: Gaussian process with a Matérn kernel, expected improvement. Takes a second to import."""

    def __init__(self, seed: int) -> None:
        import skopt
        from sklearn.exceptions import ConvergenceWarning
        from skopt.utils import cook_estimator, normalize_dimensions
        from threadpoolctl import threadpool_limits

        # Nothing is wrong with a length scale at its bound, or with a point that is the best one once more. Once and
        # for all: `catch_warnings` is not for threads.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", "The objective has been evaluated", UserWarning)
        # For some 25 points several BLAS threads take seven times the CPU of one.
        self._limits = threadpool_limits
        space = normalize_dimensions([(0.0, 1.0), (0.0, 1.0)])
        self._skopt = skopt.Optimizer(
            space,
            base_estimator=cook_estimator("GP", space=space, random_state=seed, n_restarts_optimizer=RESTARTS),
            n_initial_points=1,
            acq_func="EI",
            acq_func_kwargs={"xi": XI},
            acq_optimizer="sampling",
            acq_optimizer_kwargs={"n_points": POINTS},
            random_state=seed,
        )

    def tell(self, points: Sequence[Point], values: Sequence[float]) -> None:
        with self._limits(1):
            self._skopt.tell([list(point) for point in points], list(values))

    def ask(self) -> Point:
        with self._limits(1):
            x, y = self._skopt.ask()
        return float(x), float(y)


def make_skopt(seed: int) -> Optimizer:
    return Skopt(seed)
