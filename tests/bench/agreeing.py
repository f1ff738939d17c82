"""Rows of drafts beside a table's: the same, but for what rounding may change.

llama.cpp rounds in another way on another CPU, and with another number of rows in a forward (chunks of a prompt,
catching up: that depends on timing). So scores move a little; where the best two are close together, another one may
win, and from there on the row is about another text.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.proving.traces.table import NOTHING, UNKNOWN, Trace

CLOSE: Final = 0.05
"""A margin (`DraftToken`) that rounding may turn round. With the draft model in F32 instead of the table's F16, which
moves scores more than another order of sums, the largest that turned was 0.008 at T = 0 and 0.015 at T = 1, over all
tables. 1.6 and 3.8 % of the drafts have a margin below 0.05. Another drafter is found out: of Q8_0 up to 0.3 turn."""
TOLERANCES: Final = {"confidence": 0.015, "margin": 0.1, "entropy": 0.08}
"""Of drafts up to a row's first difference. F32 moves them by up to 0.005, 0.045 and 0.026; Q8_0 by 0.08, 0.5, 0.27."""


def differing(found: Trace, table: Trace) -> float:
    """Share of found's rows that differ from the table's. Raises AssertionError where no close call explains it, or
    where drafts are the same and their figures are not."""
    known = found.drafts != UNKNOWN
    equal = found.drafts == table.drafts
    assert (known == np.logical_and.accumulate(known, axis=1)).all(), "rows with a gap"
    same = known & np.logical_and.accumulate(equal, axis=1)
    wrong = (known & ~equal).any(axis=1)
    for row in np.flatnonzero(wrong):
        column = int(same[row].sum())
        where = f"row {row}, draft {column}: {found.drafts[row, column]}, of the table {table.drafts[row, column]}"
        assert NOTHING not in (found.drafts[row, column], table.drafts[row, column]), where
        assert table.margin[row, column] < CLOSE, f"{where} by a margin of {table.margin[row, column]}"
    for name, tolerance in TOLERANCES.items():
        off = np.abs(getattr(found, name) - getattr(table, name))[same]
        assert off.max(initial=0.0) < tolerance, f"{name} is off by {off.max()}"
    return float(wrong.sum() / known[:, 0].sum())
