"""What counts as the same row, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from agreeing import CLOSE, TOLERANCES, differing

from bench.proving.traces.table import DEPTH, NOTHING, UNKNOWN, Trace

ROWS = 4


def table() -> Trace:
    tokens = np.arange(ROWS, dtype=np.int32)
    drafts = np.arange(ROWS * DEPTH, dtype=np.int32).reshape(ROWS, DEPTH)
    margin = np.full((ROWS, DEPTH), 1.0, np.float32)
    margin[1, 3] = CLOSE / 2
    sure = np.full((ROWS, DEPTH), 0.5, np.float32)
    return Trace("t", 3, 0.0, tokens, drafts, sure, margin, sure)


def found(row: int, column: int, token: int = 7_000) -> Trace:
    """Another text from there on, and nothing known of the last row."""
    drafts = table().drafts.copy()
    drafts[row, column:] = token
    drafts[-1] = UNKNOWN
    return replace(table(), drafts=drafts)


def test_a_row_may_leave_at_a_close_call() -> None:
    assert differing(table(), table()) == 0
    assert differing(found(0, 0, UNKNOWN), table()) == 0
    assert differing(found(1, 3), table()) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("row", "column", "token"), [(1, 2, 7_000), (1, 4, 7_000), (0, 3, 7_000), (1, 3, NOTHING)])
def test_and_nowhere_else(row: int, column: int, token: int) -> None:
    with pytest.raises(AssertionError, match=rf"row {row}, draft {column}"):
        differing(found(row, column, token), table())


@pytest.mark.parametrize("name", TOLERANCES)
def test_figures_are_the_same_up_to_there(name: str) -> None:
    off = getattr(table(), name).copy()
    off[1, 4:] += 1
    assert differing(replace(found(1, 3), **{name: off}), table()) > 0
    off[1, 2] += 2 * TOLERANCES[name]
    with pytest.raises(AssertionError, match=f"{name} is off by"):
        differing(replace(found(1, 3), **{name: off}), table())
