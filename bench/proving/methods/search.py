"""Tuning, the same for every method: a coarse grid, then steps to better neighbours, within a number of trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

Axes = Sequence[Sequence[object]]
Point = tuple[object, ...]


def search(cost: Callable[[Point], float], axes: Axes, trials: int, first: Point | None = None) -> tuple[Point, float]:
    """The point (a value of each axis) of least cost found, and its cost. Deterministic; at most `trials` >= 2 calls.

    axes: ordered values. The grid takes three of each of the first two axes (six of a single one), and the middle one
    of the others; the refinement tries neighbours of the best point, two steps away and then one. first: a point to
    begin with, on the axes or not.
    """
    start = math.inf
    if first is not None:
        start = cost(first)
        trials -= 1
    known: dict[tuple[int, ...], float] = {}

    def look(index: tuple[int, ...]) -> float:
        if index not in known:
            known[index] = cost(tuple(axis[i] for axis, i in zip(axes, index, strict=True)))
        return known[index]

    counts = (6,) if len(axes) == 1 else (3, 3, *[1] * (len(axes) - 2))
    for index in itertools.product(*(_spread(len(axis), n) for axis, n in zip(axes, counts, strict=True))):
        if len(known) < trials:
            look(index)
    stride = 2
    while stride and len(known) < trials:
        best = min(known, key=lambda index: known[index])
        for index in _neighbours(best, axes, stride):
            if len(known) < trials:
                look(index)
        if min(known, key=lambda index: known[index]) == best:
            stride -= 1
    best = min(known, key=lambda index: known[index])
    if first is not None and start <= known[best]:
        return first, start
    return tuple(axis[i] for axis, i in zip(axes, best, strict=True)), known[best]


def _spread(size: int, count: int) -> list[int]:
    """`count` indices, evenly inside 0..size-1."""
    if size <= count:
        return list(range(size))
    return [round((2 * i + 1) * (size - 1) / (2 * count)) for i in range(count)]


def _neighbours(index: tuple[int, ...], axes: Axes, stride: int) -> list[tuple[int, ...]]:
    return [
        (*index[:which], moved, *index[which + 1 :])
        for which, axis in enumerate(axes)
        for moved in (index[which] - min(stride, len(axis) - 1), index[which] + min(stride, len(axis) - 1))
        if moved != index[which] and 0 <= moved < len(axis)
    ]
