"""A live agent's traces made whole, so that every method can be played on them (docs/benchmarks.md, your own traces).

What an agent never drafted cannot be known, and a method that would have drafted there must not gain by that: with
"nothing to propose" it would save the time for wrong drafts, and ask at once. So the gaps are filled from what the same
agent drafted elsewhere. Whether the drafter's next token would have been right after the target's own, and how sure, is
drawn from the known positions behind a right one or a wrong one, as the position is; behind a wrong token it goes on
wrongly, as sure as it was elsewhere behind one. Draws are seeded: equal traces give equal tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.proving.traces.live import read_all, rows
from bench.proving.traces.table import DEPTH, UNKNOWN, Table, Trace

SEED: Final = 17
FIGURES: Final = ("confidence", "margin", "entropy")
Seen = tuple[float, ...]
"""Of a draft: `FIGURES`."""


def known(traces: Sequence[Trace]) -> float:
    """Share of the output positions at which it is known what the drafter proposes after the target's own tokens."""
    return sum(int((trace.drafts[:, 0] != UNKNOWN).sum()) for trace in traces) / sum(len(t.tokens) for t in traces)


@dataclass
class _Pool:
    """after: drafts after the target's own tokens, (right, figures), by whether the position before was right. astray:
    figures of drafts behind a wrong one."""

    after: dict[bool, list[tuple[bool, Seen]]] = field(default_factory=lambda: {True: [], False: []})
    astray: list[Seen] = field(default_factory=list)

    def add(self, trace: Trace) -> None:
        before = True
        for row, token in enumerate(trace.tokens):
            if trace.drafts[row, 0] < 0:
                continue
            right = bool(trace.drafts[row, 0] == token)
            if row == 0 or trace.drafts[row - 1, 0] >= 0:
                self.after[before].append((right, _seen(trace, row, 0)))
            before = right
            if not right:
                self.astray += [_seen(trace, row, i) for i in range(1, DEPTH) if trace.drafts[row, i] >= 0]

    def first(self, rng: np.random.Generator, *, before: bool) -> tuple[bool, Seen]:
        some = self.after[before] or self.after[not before]
        return some[int(rng.integers(len(some)))]

    def behind(self, rng: np.random.Generator) -> Seen:
        some = self.astray or [seen for right, seen in self.after[False] + self.after[True] if not right]
        some = some or [seen for _, seen in self.after[True]]
        return some[int(rng.integers(len(some)))]


def _seen(trace: Trace, row: int, column: int) -> Seen:
    return tuple(float(getattr(trace, name)[row, column]) for name in FIGURES)


def fill(traces: Sequence[Trace]) -> list[Trace]:
    """Traces without `UNKNOWN`. Raises ValueError where no position at all is known."""
    pool = _Pool()
    for trace in traces:
        pool.add(trace)
    if not any(pool.after.values()):
        raise ValueError("the traces say of no position what the drafter proposes: record longer answers, with drafts")
    return [_filled(trace, pool, np.random.default_rng((SEED, number))) for number, trace in enumerate(traces)]


def _filled(trace: Trace, pool: _Pool, rng: np.random.Generator) -> Trace:
    n = len(trace.tokens)
    columns: dict[str, NDArray[np.float32]] = {name: getattr(trace, name).copy() for name in FIGURES}
    drafts = trace.drafts.copy()

    def put(row: int, column: int, token: int, seen: Seen) -> None:
        drafts[row, column] = token
        for name, value in zip(FIGURES, seen, strict=True):
            columns[name][row, column] = value

    before = True
    for row, token in enumerate(trace.tokens.tolist()):
        if drafts[row, 0] == UNKNOWN:
            right, seen = pool.first(rng, before=before)
            put(row, 0, token if right else _other(token, trace.eos), seen)
        before = bool(drafts[row, 0] == token)
    for row in reversed(range(n)):
        right = bool(drafts[row, 0] == trace.tokens[row])
        for column in np.nonzero(drafts[row] == UNKNOWN)[0].tolist():
            if right and row + 1 < n:
                put(row, column, int(drafts[row + 1, column - 1]), tuple(
                    float(columns[name][row + 1, column - 1]) for name in FIGURES
                ))  # fmt: skip
            else:
                at = min(row + column, n - 1)
                put(row, column, _other(int(trace.tokens[at]), trace.eos), pool.behind(rng))
    return replace(
        trace,
        drafts=drafts,
        confidence=columns["confidence"],
        margin=columns["margin"],
        entropy=columns["entropy"],
    )


def _other(token: int, eos: Sequence[int]) -> int:
    """An id that is neither this one nor an end of text."""
    other = token + 1
    while other in eos:
        other += 1
    return other


def live_table(folder: Path) -> tuple[Table, float]:
    """The traces of a folder, by time, filled; and the share of positions that was known. Raises ValueError."""
    traces = [trace for trace in map(rows, read_all(folder)) if len(trace.tokens)]
    if len(traces) < 2:
        raise ValueError(
            f"{folder} holds {len(traces)} traces with tokens, but 2 or more are needed, to tune on some and report "
            "others: record them with `pipesd-agent start --trace DIR`"
        )
    return Table("live", tuple(fill(traces))), known(traces)
