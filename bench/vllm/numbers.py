"""Arithmetic of bench/vllm: medians with intervals, and drafts that are wrong at a given rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 4000


@dataclass(frozen=True)
class Estimate:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(samples: Sequence[float], baseline: Sequence[float] | None = None) -> Estimate:
    """The median of the samples, or its ratio to that of a baseline; the interval is a percentile bootstrap over
    repeats.

    Args:
        samples, baseline: one each per repeat; a sample and the baseline beside it are drawn together, because they
            were measured beside each other.

    Raises: ValueError without samples, or when the lengths differ.
    """
    if not samples:
        raise ValueError("no samples")
    columns = np.array([samples] if baseline is None else [samples, baseline], dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, len(samples), (RESAMPLES, len(samples)))
    medians = np.median(columns[:, drawn], axis=2)
    middle = np.median(columns, axis=1)
    if baseline is not None:
        medians, middle = medians[:1] / medians[1:], middle[:1] / middle[1:]
    low, high = np.percentile(medians[0], [2.5, 97.5])
    return Estimate(float(middle[0]), float(low), float(high))


def corrupt(ids: Sequence[int], rate: float, n_vocab: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The ids, each replaced by another id with probability `rate`."""
    if not rate:
        return tuple(ids)
    wrong = rng.random(len(ids)) < rate
    shift = rng.integers(1, n_vocab, len(ids))
    return tuple(
        int((token + by) % n_vocab) if bad else token for token, bad, by in zip(ids, wrong, shift, strict=True)
    )


def shared(begin: NDArray[Any], end: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """How much of each span (begin, end) lies within spans (starts, ends) that do not overlap each other."""
    overlap = np.minimum(end[:, None], ends) - np.maximum(begin[:, None], starts)
    total: NDArray[Any] = overlap.clip(min=0.0).sum(axis=1)
    return total
