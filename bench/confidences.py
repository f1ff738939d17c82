"""How well a score of drafts predicts that the target accepts them, and the logistic function fitted to it."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipesd_agent.drafting.confidence import Logistic, fit_weights

_RIDGE: Final = 1e-3


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
