"""Confidence at T > 0: a probability of acceptance from the margin of the perturbed scores (architecture §5).

Under shared noise the draft's own probability says little about acceptance; how clearly the drawn token won (best
minus second best of logits/T + noise) does. `bench/auc.py` measures both on a real pair and prints the constants.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_STEPS: Final = 50
_CLOSE: Final = 1e-9
_MAX_EXPONENT: Final = 700.0


class Logistic(msgspec.Struct, frozen=True):
    """P(accepted | margin) = 1 / (1 + exp(-(intercept + slope * margin)))."""

    intercept: float
    slope: float

    def __call__(self, margin: float) -> float:
        """Probability in 0..1, rising with margin where slope > 0."""
        return 1.0 / (1.0 + math.exp(min(_MAX_EXPONENT, -(self.intercept + self.slope * margin))))


SAMPLED: Final = Logistic(intercept=-1.07, slope=0.76)
"""Start value for every pair of models; fitted on the demo pair, T = 0.7 and 1, 164 HumanEval prompts x 64 tokens."""


def fit_weights(
    design: NDArray[np.float64],
    right: NDArray[np.float64],
    start: NDArray[np.float64],
    prior: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """Weights w of 1 / (1 + exp(-design·w)), by Newton's method from `start`.

    Args:
        design: shape (n, k), finite. right: 0 or 1, shape (n,). start, prior: shape (k,). ridge: half of it times the
            squared distance from the prior is added to the log loss, in nats.
    """

    def loss(w: NDArray[np.float64]) -> float:
        z = design @ w
        return float(np.logaddexp(0.0, z).sum() - right @ z + 0.5 * ridge * (w - prior) @ (w - prior))

    weights = start
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -_MAX_EXPONENT, _MAX_EXPONENT)))
        gradient = design.T @ (p - right) + ridge * (weights - prior)
        hessian = design.T @ (design * (p * (1.0 - p))[:, None]) + ridge * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-6 and loss(weights - scale * step) > loss(weights):
            scale *= 0.5
        weights = weights - scale * step
        if float(np.abs(scale * step).max()) < _CLOSE:
            break
    return weights
