"""The trace table: what target and drafter say at each position of a workload, computed once.

The target's path is fixed, and the drafter's continuation is a deterministic function of (committed prefix, seed): so a
run in virtual time needs no model, and is exactly repeatable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

DEPTH: Final = 40
"""Drafted ids kept for each position."""
NOTHING: Final = -1
UNKNOWN: Final = -2


@dataclass(frozen=True)
class Trace:
    """One answer of the target, and all that the drafter would have proposed on the way.

    name: workload and number. prompt_length: tokens. temperature: of both. tokens: int32[n], the target's output.
    drafts: int32[n, DEPTH], row p: what the drafter proposes after prompt + tokens[:p]; `NOTHING` after its end of
    text, `UNKNOWN` where a live agent never drafted. confidence, margin, entropy: float32[n, DEPTH], see `DraftToken`;
    0.0 where there is no draft. eos: ids that end the text.
    """

    name: str
    prompt_length: int
    temperature: float
    tokens: NDArray[np.int32]
    drafts: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    eos: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.tokens), DEPTH)
        for name in ("drafts", "confidence", "margin", "entropy"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{self.name}: {name} must be of shape {shape}, but is {getattr(self, name).shape}")

    def right(self, position: int) -> int:
        """How many of row `position`'s drafts, from the first on, are the target's tokens."""
        row, truth = self.drafts[position], self.tokens[position : position + DEPTH]
        differs = np.nonzero(row[: len(truth)] != truth)[0]
        return int(differs[0]) if len(differs) else len(truth)


@dataclass(frozen=True)
class Table:
    """Traces of one workload at one temperature."""

    name: str
    traces: tuple[Trace, ...]

    def halves(self) -> tuple[Table, Table]:
        """(held-out half that parameters are tuned on, half that is reported): even and odd traces."""
        return (
            Table(f"{self.name}/tuning", self.traces[0::2]),
            Table(f"{self.name}/report", self.traces[1::2]),
        )


def save(table: Table, path: Path) -> None:
    """Write a table, compressed (.npz). Numbers take the smaller type where it holds all of them exactly."""
    arrays: dict[str, NDArray[np.generic]] = {
        "name": np.array(table.name),
        "names": np.array([trace.name for trace in table.traces]),
        "lengths": np.array([len(trace.tokens) for trace in table.traces], np.int32),
        "prompt_lengths": np.array([trace.prompt_length for trace in table.traces], np.int32),
        "temperatures": np.array([trace.temperature for trace in table.traces], np.float64),
        "eos": np.array(table.traces[0].eos if table.traces else (), np.int32),
    }
    for field in _COLUMNS:
        arrays[field] = _smallest(np.concatenate([getattr(trace, field) for trace in table.traces]))
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Table:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as data:
        ends = np.cumsum(data["lengths"])
        eos = tuple(int(token) for token in data["eos"])
        columns = {
            field: np.split(data[field].astype(np.int32 if field in _IDS else np.float32), ends[:-1])
            for field in _COLUMNS
        }
        traces = tuple(
            Trace(
                name=str(name),
                prompt_length=int(prompt_length),
                temperature=float(temperature),
                eos=eos,
                **{field: columns[field][number] for field in _COLUMNS},
            )
            for number, (name, prompt_length, temperature) in enumerate(
                zip(data["names"], data["prompt_lengths"], data["temperatures"], strict=True)
            )
        )
        return Table(str(data["name"]), traces)


_IDS: Final = ("tokens", "drafts")
_COLUMNS: Final = (*_IDS, "confidence", "margin", "entropy")


def _smallest(column: NDArray[np.generic]) -> NDArray[np.generic]:
    with np.errstate(over="ignore"):
        smaller = column.astype(np.int16 if column.dtype == np.int32 else np.float16)
    return smaller if np.array_equal(smaller, column) else column
