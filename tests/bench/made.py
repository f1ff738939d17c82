"""Traces for the proving ground's tests, written down by hand."""

from __future__ import annotations

import numpy as np

from bench.proving.simulator.script import Script
from bench.proving.traces.table import DEPTH, Trace


def scripted(pattern: str, confidence: dict[int, float] | None = None, *, eos_at: int | None = None) -> Script:
    """pattern: a character for each output token, "." where the drafter is right and "x" where it is wrong.

    confidence: at given positions of the right path; elsewhere 1. The tokens are 100, 101, ...; wrong ones 1.
    """
    n = len(pattern)
    tokens = np.arange(100, 100 + n, dtype=np.int32)
    drafts = np.ones((n, DEPTH), np.int32)
    sure = np.ones((n, DEPTH), np.float32)
    for row in range(n):
        for column in range(DEPTH):
            at = row + column
            if at < n:
                sure[row, column] = (confidence or {}).get(at, 1.0)
            if at >= n or pattern[at] == "x":
                break
            drafts[row, column] = tokens[at]
    blank = np.zeros((n, DEPTH), np.float32)
    eos = () if eos_at is None else (int(tokens[eos_at]),)
    return Script(Trace("made", 10, 0.0, tokens, drafts, sure, blank, blank, eos))


def table_lines(table: str) -> dict[str, list[str]]:
    """Cells of each line, by the first; all lines must have as many as the head."""
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    assert len({len(cells) for cells in split}) == 1
    return {cells[0]: cells[1:] for cells in split}
