"""The paper's token-batch scheduling: the plan with the least makespan for `n` tokens (arXiv 2605.13319).

Pure, in integer microseconds: many plans share the optimum, and floating point would pick among them at random.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


def makespan(plan: Sequence[int], alpha: int, beta: int, gamma: int) -> int:
    """From the first token's start of drafting to the last batch's arrival, in µs.

    plan: batch sizes. A batch leaves when its last token is drafted and the link is free, and takes alpha + beta·size.
    """
    drafted = sent = 0
    for size in plan:
        drafted += gamma * size
        sent = max(sent, drafted) + alpha + beta * size
    return sent


@lru_cache(maxsize=4096)
def optimal_plan(n: int, alpha: int, beta: int, gamma: int) -> tuple[int, ...]:
    """Batch sizes for `n` >= 1 tokens, in order. Of the best, the one whose last batch is largest, and so on forward.

    alpha: µs a batch; beta: µs a token sent; gamma: µs a token drafted. O(n): the paper's recurrence
    best[j] = min over i < j of max(best[i], gamma·j) + alpha + beta·(j - i), of which, best being monotone, the link is
    free in time up to some i, the last of which is as good as any before it; after that, best[i] - beta·i decides, the
    least of a window that only moves on. Raises ValueError.
    """
    if n < 1 or min(alpha, beta, gamma) < 0:
        raise ValueError(f"need n >= 1 and no negative cost, but got n {n}, alpha {alpha}, beta {beta}, gamma {gamma}")
    best = [0] * (n + 1)
    cut = [0] * (n + 1)
    free = 0
    busy: deque[tuple[int, int]] = deque()
    """(best[i] - beta·i, i) of what may be the least from some i > `free` on, rising."""
    for j in range(1, n + 1):
        done = gamma * j
        while free + 1 < j and best[free + 1] <= done:
            free += 1
        while busy and busy[0][1] <= free:
            busy.popleft()
        first = free if beta else 0
        cost = done + beta * (j - first)
        if busy and (least := busy[0][0] + beta * j) < cost:
            cost, first = least, busy[0][1]
        best[j], cut[j] = cost + alpha, first
        key = best[j] - beta * j
        while busy and busy[-1][0] > key:
            busy.pop()
        busy.append((key, j))
    plan: list[int] = []
    while n:
        plan.append(n - cut[n])
        n = cut[n]
    return tuple(reversed(plan))
