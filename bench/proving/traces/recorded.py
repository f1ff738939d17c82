"""The tables that ship: each pair on every workload of its own, recorded by bench.proving.traces.record. Needs no
model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.proving.traces.table import DEPTH, Table, load
from bench.proving.traces.workloads import NAMES, REAL

TABLES: Final = Path(__file__).parent / "tables"
TEMPERATURES: Final = (0.0, 1.0)
FIRST_SEED: Final = 1000
"""Of a workload's first sequence; the next ones count up."""
TOKENS: Final = 96
CONTEXT: Final = 1024
"""Of both models, for prompt, answer and drafts."""
ROOT: Final = Path(__file__).resolve().parents[3]
BUILD: Final = ROOT / ".build"
TARGET: Final = BUILD / "demo-target-F32.gguf"
DRAFT: Final = BUILD / "demo-draft-F16.gguf"


@dataclass(frozen=True)
class Pair:
    """A target and its draft model, and what they are recorded on.

    tokens: of the longest answer. context: of both, for prompt, answer and drafts.
    """

    target: Path
    draft: Path
    workloads: tuple[str, ...]
    temperatures: tuple[float, ...]
    tables: Path
    tokens: int = TOKENS
    context: int = CONTEXT


PAIRS: Final = {
    "toy": Pair(TARGET, DRAFT, NAMES, TEMPERATURES, TABLES),
    "real": Pair(
        BUILD / "smollm2-F16.gguf", BUILD / "smollm2-draft.gguf", (REAL,), (0.0, 0.8), TABLES / "real", context=1536
    ),
}


def table_name(workload: str, temperature: float) -> str:
    """Of the table, and of its file without the suffix."""
    return f"{workload}-t{temperature:g}"


def recorded(workload: str, temperature: float) -> Table:
    """One of the tables that ship. Raises FileNotFoundError."""
    pair = PAIRS["real" if workload == REAL else "toy"]
    return load(pair.tables / f"{table_name(workload, temperature)}.npz")


def figures(table: Table) -> dict[str, Any]:
    """sequences, tokens, ended (sequences with an end of text), acceptance: share of positions at which the first
    draft is the target's token; run: mean number of right drafts of a row, of at most `DEPTH`, rows that the answer's
    end cuts short left out."""
    rows = [(trace, position) for trace in table.traces for position in range(len(trace.tokens))]
    whole = [trace.right(position) for trace, position in rows if position + DEPTH <= len(trace.tokens)]
    return {
        "sequences": len(table.traces),
        "tokens": len(rows),
        "ended": sum(int(trace.tokens[-1]) in trace.eos for trace in table.traces),
        "acceptance": round(sum(int(trace.drafts[p, 0] == trace.tokens[p]) for trace, p in rows) / len(rows), 4),
        "run": round(sum(whole) / len(whole), 3) if whole else None,
    }
