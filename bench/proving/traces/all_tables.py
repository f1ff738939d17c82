"""The workloads that are played: recorded with the real pair, made up, and recorded with the toy pair."""

from __future__ import annotations

import itertools
from typing import Final

from bench.proving.traces.recorded import PAIRS, recorded
from bench.proving.traces.stochastic import make_table
from bench.proving.traces.table import Table

MADE: Final = "made-up"
"""The workload with the statistics of the authors' runs."""
MADE_SEED: Final = 11
MADE_ANSWERS, MADE_TOKENS = 40, 256


def made_up() -> Table:
    """Texts with the statistics of the authors' runs."""
    return make_table(MADE, MADE_ANSWERS, MADE_TOKENS, seed=MADE_SEED)


def recorded_with(pair: str) -> list[Table]:
    """All tables of one of `PAIRS`."""
    return list(itertools.starmap(recorded, itertools.product(PAIRS[pair].workloads, PAIRS[pair].temperatures)))


def tables() -> list[Table]:
    """All of them, the real pair's first: pages show them in this order."""
    return [*recorded_with("real"), made_up(), *recorded_with("toy")]
