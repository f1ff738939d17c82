"""The scheduling DP against all partitions, and against the table of papers/pipesd.md §2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.proving.dp import makespan, optimal_plan


def partitions(n: int) -> Iterator[tuple[int, ...]]:
    if n == 0:
        yield ()
    for first in range(1, n + 1):
        for rest in partitions(n - first):
            yield (first, *rest)


costs = st.integers(0, 300_000)


@settings(max_examples=60)
@given(n=st.integers(1, 10), alpha=costs, beta=costs, gamma=costs)
def test_no_partition_is_better(n: int, alpha: int, beta: int, gamma: int) -> None:
    plan = optimal_plan(n, alpha, beta, gamma)
    assert sum(plan) == n
    assert makespan(plan, alpha, beta, gamma) == min(makespan(p, alpha, beta, gamma) for p in partitions(n))


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "best", "immediate", "none"),
    [
        (25_000, 116_000, 36_000, 2456, 2856, 3065),
        (28_100, 116_300, 45_100, 2483.5, 2933, 3256),
        (25_000, 232_000, 36_000, 4751, 5176, 5385),
        (25_000, 58_000, 36_000, 1321, 1696, 1905),
        (25_000, 29_000, 36_000, 844, 1116, 1325),
        (25_000, 116_000, 72_000, 2520, 2892, 3785),
        (25_000, 116_000, 144_000, 3021, 3021, 5225),
        (27_300, 5, 44_000, 907.3, 907.3, 907.4),
    ],
)
def test_the_papers_table(alpha: int, beta: int, gamma: int, best: float, immediate: float, none: float) -> None:
    plans = [optimal_plan(20, alpha, beta, gamma), (1,) * 20, (20,)]
    found = [makespan(plan, alpha, beta, gamma) / 1000 for plan in plans]
    assert found == pytest.approx([best, immediate, none], abs=0.5)


@pytest.mark.parametrize(
    ("n", "gamma", "plan"),
    [
        (5, 36_000, (1, 4)),
        (6, 36_000, (1, 1, 4)),
        (8, 36_000, (1, 1, 6)),
        (20, 36_000, (1, 1, 4, 14)),
        (20, 144_000, (1,) * 20),
    ],
)
def test_plans_of_the_papers_setting(n: int, gamma: int, plan: tuple[int, ...]) -> None:
    assert optimal_plan(n, 25_000, 116_000, gamma) == plan


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="n 0"):
        optimal_plan(0, 1, 1, 1)
