"""What the recorded tables do not have: the draft's largest and its drawn token's probability, at T = 1.

`python -m bench.proving.traces.probabilities` (three minutes) drafts along the recorded answers again, which must
give the recorded drafts, and writes tables/probabilities.npz. Only the comparison of confidences needs it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.proving.traces.drafting import rows_along, trace_of
from bench.proving.traces.recorded import CONTEXT, DRAFT, TABLES, TARGET, recorded
from bench.proving.traces.table import Table
from bench.proving.traces.workloads import NAMES, workload
from pipesd_agent.drafting.draft_sampler import DraftSampler
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.sampling.params import SamplingParams

FILE: Final = TABLES / "probabilities.npz"
KINDS: Final = ("max", "drawn")


class _Telling(DraftSampler):
    """Tells the largest probability as confidence, and the drawn token's as entropy."""

    def sample(
        self,
        row: NDArray[np.float32],
        params: SamplingParams,
        position: int,
        allowed: NDArray[np.int64] | None = None,
    ) -> DraftToken:
        token = super().sample(row, params, position, allowed)
        exp = np.exp(row - row.max())
        total = float(exp.sum())
        return DraftToken(position, token.token, 1.0 / total, token.margin, float(exp[token.token]) / total)


def with_probability(table: Table, kind: str) -> Table:
    """The table with the draft's `max` or `drawn` probability as confidence. Raises FileNotFoundError, KeyError."""
    with np.load(FILE, allow_pickle=False) as data:
        column = data[f"{table.name}-{kind}"].astype(np.float32)
    ends = np.cumsum([len(trace.tokens) for trace in table.traces])[:-1]
    parts = np.split(column, ends)
    return Table(
        table.name, tuple(replace(trace, confidence=part) for trace, part in zip(table.traces, parts, strict=True))
    )


async def _record(out: Path) -> None:
    # Late: only this part needs llama.cpp.
    from bench.proving.traces.record import info_of, openings
    from pipesd_agent.drafting.llama import LlamaDrafter
    from pipesd_core.llamacpp.openai.prompt import Prompter
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

    decoder = TargetDecoder(TARGET, n_seq=1, n_ctx_seq=CONTEXT)
    columns: dict[str, NDArray[np.float16]] = {}
    try:
        prompter = Prompter(decoder.model, info_of(decoder))
        for name in NAMES:
            table = recorded(name, 1.0)
            made = []
            for (sequence, opening), trace in zip(openings(prompter, workload(name), 1.0), table.traces, strict=True):
                drafter = LlamaDrafter(DRAFT, capacity=1, n_ctx_seq=CONTEXT)
                drafter._sampler = _Telling(drafter._n_draftable)
                tokens = trace.tokens.tolist()
                made.append(trace_of(sequence, opening, tokens, rows_along(drafter, opening, tokens)))
                drafter.release()
                if not np.array_equal(made[-1].drafts, trace.drafts):
                    raise RuntimeError(f"{sequence}: the drafts are not the recorded ones; record the tables again")
            columns[f"{table.name}-max"] = np.concatenate([trace.confidence for trace in made]).astype(np.float16)
            columns[f"{table.name}-drawn"] = np.concatenate([trace.entropy for trace in made]).astype(np.float16)
            print(f"{table.name}: {sum(len(trace.tokens) for trace in made)} positions", flush=True)
    finally:
        await decoder.aclose()
    np.savez_compressed(out, **columns)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(_record(FILE))
