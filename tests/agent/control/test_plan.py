"""The scheduling DP against all partitions, and against a table of optima."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipesd_agent.control.plan_dp import makespan, optimal_plan

SCALES = (3, 20, 3_000, 300_000)
"""Of costs: small ones tie often."""


def least(n: int, alpha: int, beta: int, gamma: int) -> int:
    """Of the makespans of all 2 ** (n - 1) partitions."""
    partitions = np.arange(2 ** (n - 1))
    sent = np.zeros(len(partitions), np.int64)
    began = np.zeros(len(partitions), np.int64)
    for drafted in range(1, n + 1):
        ends = (partitions >> (drafted - 1)) & 1 == 1 if drafted < n else np.full(len(partitions), True)
        sent = np.where(ends, np.maximum(sent, gamma * drafted) + alpha + beta * (drafted - began), sent)
        began = np.where(ends, drafted, began)
    return int(sent.min())


def as_the_paper_writes_it(n: int, alpha: int, beta: int, gamma: int) -> tuple[int, ...]:
    """Its recurrence, O(n²); of equal batches the one that begins first."""
    best, cut = [0] * (n + 1), [0] * (n + 1)
    for j in range(1, n + 1):
        best[j], cut[j] = min((max(best[i], gamma * j) + alpha + beta * (j - i), i) for i in range(j))
    plan: list[int] = []
    while n:
        plan.append(n - cut[n])
        n = cut[n]
    return tuple(reversed(plan))


def some(seed: int, count: int, most: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, most + 1, count)
    costs = rng.random((count, 3)) * rng.choice(SCALES, (count, 3))
    return [(int(k), int(a), int(b), int(c)) for k, (a, b, c) in zip(n, costs, strict=True)]


def test_the_least_makespan_is_that_of_the_plan_it_belongs_to() -> None:
    assert least(3, 10, 5, 7) == min(makespan(p, 10, 5, 7) for p in ((3,), (1, 2), (2, 1), (1, 1, 1)))


def test_no_partition_is_better() -> None:
    for n, *costs in some(1, 3000, 10):
        plan = optimal_plan(n, *costs)
        assert sum(plan) == n
        assert makespan(plan, *costs) == least(n, *costs), (n, costs)


def test_no_partition_of_14_is_better() -> None:
    for _, *costs in some(2, 20, 14):
        assert makespan(optimal_plan(14, *costs), *costs) == least(14, *costs), costs


def test_it_is_the_plan_of_the_paper_s_recurrence() -> None:
    for arguments in some(3, 500, 40):
        assert optimal_plan(*arguments) == as_the_paper_writes_it(*arguments), arguments


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


PAPERS_PLANS = {
    (25_000, 116_000, 36_000): ("1 4", "1 1 4", "1 1 6", "1 1 4 14"),
    (28_100, 116_300, 45_100): ("1 1 3", "1 1 4", "1 2 5", "1 1 5 13"),
    (25_000, 232_000, 36_000): ("1 4", "1 5", "1 7", "1 2 17"),
    (25_000, 58_000, 36_000): ("1 1 3", "1 2 3", "1 3 4", "1 1 3 6 9"),
    (25_000, 29_000, 36_000): ("1 2 2", "1 1 2 2", "1 1 2 2 2", "1 1 2 2 2 3 3 3 3"),
    (25_000, 116_000, 72_000): ("1 2 2", "1 2 3", "1 1 2 4", "1 2 3 5 9"),
}


@pytest.mark.parametrize("costs", PAPERS_PLANS)
def test_costs_of_the_papers_plans(costs: tuple[int, int, int]) -> None:
    for text in PAPERS_PLANS[costs]:
        theirs = tuple(map(int, text.split()))
        assert makespan(optimal_plan(sum(theirs), *costs), *costs) == makespan(theirs, *costs)


@pytest.mark.parametrize(("n", "alpha", "beta"), [(5, 27_300, 5), (20, 27_300, 5), (64, 0, 1)])
def test_where_the_link_costs_next_to_nothing_each_token_goes_at_once(n: int, alpha: int, beta: int) -> None:
    assert optimal_plan(n, alpha, beta, 44_000) == (1,) * n


def test_a_plan_for_64_tokens_takes_less_than_a_millisecond() -> None:
    took = []
    for extra in range(20):
        began = time.process_time()
        optimal_plan.__wrapped__(64, 25_000 + extra, 29_000, 36_000)
        took.append(time.process_time() - began)
    assert min(took) < 0.001


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="n 0"):
        optimal_plan(0, 1, 1, 1)
