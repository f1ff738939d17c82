"""All that the drafter would propose along an answer of the target: the rows of a `Trace`.

The drafter is the agent's own. It goes through the positions of the answer as if no verdict ever came in time: it
drafts `DEPTH` tokens, then learns the target's next one. Where its first draft was that, the next row is this one
without it, plus one token more; else it is rolled back, as by the worker.

One lane at a time, so that every forward has one row, as an agent's with one client: llama.cpp multiplies several rows
in another way, which moves confidences by some 1e-3. For the demo's drafter that is no slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.proving.traces.table import DEPTH, NOTHING, Trace
from pipesd_agent.drafting.drafter import Drafter, DraftToken, NoDraft
from pipesd_core.engine.interface import Opening

PATIENCE: Final = 1000
"""Forwards for one token, most of them for a long prompt."""
LANE: Final = 0


def rows_along(drafter: Drafter, opening: Opening, tokens: Sequence[int], depth: int = DEPTH) -> list[list[DraftToken]]:
    """For each position of the answer (output ids): the drafts there, up to `depth`, an end of text, or as far as the
    drafter has something to propose.

    Raises: ValueError for an answer that does not fit into the drafter's context; RuntimeError if it stands still.
    """
    start = len(opening.prompt_ids)
    if (length := start + len(tokens) + depth) > drafter.max_context:
        raise ValueError(
            f"prompt, answer and drafts are {length} tokens, but the drafter's context holds "
            f"{drafter.max_context}: choose shorter ones"
        )
    rows: list[list[DraftToken]] = []
    row: list[DraftToken] = []
    drafter.open(LANE, opening.prompt_ids, opening.params)
    for position, decided in enumerate(tokens):
        while len(row) < depth and not (row and row[-1].token in opening.eos_ids):
            draft = _next(drafter)
            if draft is None:
                break
            row.append(draft)
        rows.append(row)
        if row and row[0].token == decided:
            row = row[1:]
            continue
        if row:
            drafter.truncate(LANE, start + position)
        drafter.extend(LANE, [decided])
        row = []
    drafter.close(LANE)
    return rows


def _next(drafter: Drafter) -> DraftToken | None:
    """The next draft; None: the drafter has nothing to propose."""
    for _ in range(PATIENCE):
        (draft,) = drafter.draft([LANE])
        if isinstance(draft, DraftToken):
            return draft
        if draft is NoDraft.NOTHING:
            return None
    raise RuntimeError(f"the drafter gave no token in {PATIENCE} forwards")


def trace_of(name: str, opening: Opening, tokens: Sequence[int], rows: Sequence[Sequence[DraftToken]]) -> Trace:
    """What `rows_along` gave, as a trace. margin and entropy are rounded to what float16 holds, to be small on disk."""
    shape = (len(tokens), DEPTH)
    drafts = np.full(shape, NOTHING, np.int32)
    figures = {field: np.zeros(shape, np.float32) for field in ("confidence", "margin", "entropy")}
    for position, row in enumerate(rows):
        drafts[position, : len(row)] = [token.token for token in row]
        for field, column in figures.items():
            column[position, : len(row)] = [getattr(token, field) for token in row]
    return Trace(
        name=name,
        prompt_length=len(opening.prompt_ids),
        temperature=opening.params.temperature,
        tokens=np.array(tokens, np.int32),
        drafts=drafts,
        confidence=figures["confidence"],
        margin=_as_float16(figures["margin"]),
        entropy=_as_float16(figures["entropy"]),
        eos=opening.eos_ids,
    )


def _as_float16(column: NDArray[np.float32]) -> NDArray[np.float32]:
    return column.astype(np.float16).astype(np.float32)
