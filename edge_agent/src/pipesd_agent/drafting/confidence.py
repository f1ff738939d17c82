"""Confidence at T > 0: from the margin of the perturbed scores to a probability of acceptance (architecture §5).

Under shared noise the draft's own probability says little about acceptance; how clearly the drawn token won (best
minus second best of logits/T + noise) does. `bench/auc.py` measures both on a real pair and prints the constants.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_RIDGE: Final = 1e-3
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
"""Fitted on the demo pair, T = 0.7 and 1, 164 HumanEval prompts x 64 tokens; the start value for every pair."""


def fit_logistic(margins: NDArray[Any], accepted: NDArray[Any]) -> Logistic:
    """Maximum likelihood by Newton's method (IRLS), with a ridge of 1e-3 that keeps separable data finite.

    Args:
        margins: shape (n,), finite. accepted: booleans, same shape.

    Raises: ValueError if the shapes differ, n is 0, or a margin is not finite.
    """
    x = np.asarray(margins, dtype=np.float64)
    y = np.asarray(accepted, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"margins and accepted must be one-dimensional and of one length: {x.shape}, {y.shape}")
    if not np.isfinite(x).all():
        raise ValueError("margins must be finite")
    weights = fit_weights(np.stack([np.ones_like(x), x], axis=1), y, np.zeros(2), np.zeros(2), _RIDGE)
    return Logistic(intercept=float(weights[0]), slope=float(weights[1]))


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


def auc(scores: NDArray[Any], accepted: NDArray[Any]) -> float:
    """Area under the ROC curve: probability that an accepted token scores above a rejected one (ties count half).

    Shapes (n,). NaN when all, or none, were accepted.
    """
    positive = np.asarray(accepted, dtype=bool)
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2.0
    return float((mean_rank[inverse][positive].sum() - n_pos * (n_pos + 1) / 2.0) / (n_pos * n_neg))
