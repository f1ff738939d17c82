"""Bayesian optimisation by scikit-optimize, which is imported only when it is asked for: that takes a second."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

from pipesd_agent.tuning.search import Optimizer, Point

XI: Final = 0.1
"""Margin of the expected improvement, in standard deviations of the objective (as in the PipeSD paper)."""
RESTARTS: Final = 0
"""Restarts of the fit; skopt's default of two triples its time and finds nothing better."""
POINTS: Final = 1000
"""Points at which the acquisition function is evaluated."""


class Skopt:
    """A Gaussian process with a Matérn kernel, and expected improvement."""

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
    """A `MakeOptimizer`."""
    return Skopt(seed)
