"""Tokens per forward of the target, a draft model against prompt lookup, at equal drafts: is the draft worth shipping?

    .venv/bin/python -m bench.draft_quality --draft FILE.gguf [--each 10] [--tokens 64] [--drafts 4]

The target is SmolLM2 (`make smollm2`), the prompts are `bench/proving/traces/real_prompts.jsonl`. At each forward both
may send at most `--drafts` drafts (lookup sends fewer where it finds nothing); the round is over at the first wrong
one, and the forward adds a token of the target's own. In brackets: 95 % of the ratios when the prompts are drawn anew.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.proving.traces.drafting import rows_along
from bench.proving.traces.record import answers, info_of, openings
from bench.proving.traces.recorded import PAIRS
from bench.proving.traces.workloads import REAL_KINDS, real_prompts
from bench.rounds import Rounds, line, rounds
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_core.engine.interface import Opening
from pipesd_core.llamacpp.openai.prompt import Prompter
from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

REAL: Final = PAIRS["real"]
AT_ONCE: Final = 10


def measured(drafter: Drafter, opening: Opening, tokens: Sequence[int], limit: int) -> Rounds:
    try:
        return rounds(rows_along(drafter, opening, tokens, limit), tokens, limit)
    finally:
        drafter.release()


async def texts(kind: str, each: int, temperature: float, tokens: int) -> list[tuple[Opening, list[int]]]:
    """The target's answers to the first `each` prompts of a kind."""
    decoder = TargetDecoder(REAL.target, n_seq=AT_ONCE, n_ctx_seq=REAL.context, max_queue=each)
    try:
        prompter = Prompter(decoder.model, info_of(decoder))
        asked = [opening for _, opening in openings(prompter, real_prompts(kind)[:each], temperature, tokens)]
        return list(zip(asked, await answers(decoder, asked), strict=True))
    finally:
        await decoder.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--each", type=int, default=10, help="prompts of each kind (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer (%(default)s)")
    parser.add_argument("--drafts", type=int, default=4, help="most drafts of a forward (%(default)s)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=REAL.temperatures)
    args = parser.parse_args()
    print(f"{'':18} {'draft, tokens a forward':>20} {'lookup':>16}   draft over lookup")
    for temperature in args.temperatures:
        drafts: list[Rounds] = []
        lookups: list[Rounds] = []
        for kind in REAL_KINDS:
            answered = asyncio.run(texts(kind, args.each, temperature, args.tokens))
            ours, theirs = (
                [measured(make(), opening, tokens, args.drafts) for opening, tokens in answered]
                for make in (lambda: LlamaDrafter(args.draft, capacity=1, n_ctx_seq=REAL.context), LookupDrafter)
            )
            print(line(f"T={temperature:g} {kind}", ours, theirs), flush=True)
            drafts, lookups = drafts + ours, lookups + theirs
        print(line(f"T={temperature:g} all", drafts, lookups), flush=True)


if __name__ == "__main__":
    main()
