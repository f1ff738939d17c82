"""The workloads that are played: the made-up one, and those recorded with real models."""

from __future__ import annotations

from typing import Final

from bench.proving.traces.recorded import TABLES
from bench.proving.traces.stochastic import make_table
from bench.proving.traces.table import Table, load

MADE_SEED: Final = 11
MADE_ANSWERS, MADE_TOKENS = 40, 256


def tables() -> list[Table]:
    """The made-up workload, and those recorded with real models."""
    made = make_table("made-up", MADE_ANSWERS, MADE_TOKENS, seed=MADE_SEED)
    return [made, *(load(path) for path in sorted(TABLES.glob("*-t?.npz")))]
