"""The trace table's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.proving.traces.table import DEPTH, Table, Trace, load, save


def trace(name: str, n: int) -> Trace:
    rng = np.random.default_rng(n)
    tokens = rng.integers(0, 9, n).astype(np.int32)
    figures = {field: rng.random((n, DEPTH), np.float32) for field in ("confidence", "margin", "entropy")}
    drafts = rng.integers(0, 9, (n, DEPTH)).astype(np.int32)
    return Trace(name=name, prompt_length=n + 1, temperature=0.5, tokens=tokens, drafts=drafts, eos=(9, 4), **figures)


def test_a_table_survives_the_disk(tmp_path: Path) -> None:
    table = Table("made up", tuple(trace(f"t{n}", n) for n in (1, 5, 60)))
    save(table, tmp_path / "table.npz")
    loaded = load(tmp_path / "table.npz")
    assert loaded.name == table.name
    for one, other in zip(table.traces, loaded.traces, strict=True):
        assert (one.name, one.prompt_length, one.temperature, one.eos) == (
            other.name,
            other.prompt_length,
            other.temperature,
            other.eos,
        )
        for field in ("tokens", "drafts", "confidence", "margin", "entropy"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_right_counts_up_to_the_first_difference() -> None:
    made = trace("t", 50)
    made.drafts[7, :10] = made.tokens[7:17]
    made.drafts[7, 10] = made.tokens[17] + 1
    assert made.right(7) == 10
    made.drafts[47, :3] = made.tokens[47:]
    assert made.right(47) == 3, "no further than the answer goes"


def test_shapes_are_checked() -> None:
    good = trace("t", 3)
    with pytest.raises(ValueError, match=r"margin must be of shape \(3, 40\)"):
        replace(good, margin=good.margin[:2])
