"""The tables are what target and drafter really say: some of their positions, asked again in other company."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from agreeing import differing

from bench.proving.traces.drafting import trace_of
from bench.proving.traces.recorded import PAIRS, ROOT, Pair, recorded
from bench.proving.traces.table import DEPTH, UNKNOWN, Trace
from bench.proving.traces.workloads import workload
from pipesd_agent.drafting.drafter import Drafter, DraftToken, NoDraft
from pipesd_core.engine.interface import Opening

pytestmark = pytest.mark.e2e

SOME = {"toy": (3, 18, 37), "real": (4,)}
"""Answers that are asked again."""
ALL = [
    pytest.param(pair, name, temperature, id=f"{name}-{temperature:g}")
    for pair, recordings in PAIRS.items()
    for name in recordings.workloads
    for temperature in recordings.temperatures
]


def built(pair: Pair) -> Pair:
    for path in (pair.target, pair.draft):
        if not path.exists():
            pytest.skip(f"{path} is not there: the model could not be fetched (make smollm2 says why)")
    return pair


@pytest.mark.parametrize("name", PAIRS)
def test_tables_are_of_the_models_that_are_built(name: str) -> None:
    pair = built(PAIRS[name])
    kept = json.loads((pair.tables / "manifest.json").read_text())["sha256"]
    for path in (pair.target, pair.draft):
        assert kept[str(path.relative_to(ROOT))] == hashlib.sha256(path.read_bytes()).hexdigest(), path


@pytest.mark.parametrize(("pair_name", "name", "temperature"), ALL)
async def test_tables_are_what_the_models_say(pair_name: str, name: str, temperature: float) -> None:
    from bench.proving.traces.record import answers, info_of, openings
    from pipesd_core.llamacpp.openai.prompt import Prompter
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder

    pair, some = built(PAIRS[pair_name]), SOME[pair_name]
    decoder = TargetDecoder(pair.target, n_seq=2)
    try:
        prompter = Prompter(decoder.model, info_of(decoder))
        asked = [openings(prompter, workload(name), temperature, pair.tokens)[number] for number in some]
        found = await answers(decoder, [opening for _, opening in asked])
    finally:
        await decoder.aclose()
    for number, (work, opening), tokens in zip(some, asked, found, strict=True):
        trace = recorded(name, temperature).traces[number]
        assert (trace.name, trace.prompt_length, trace.eos) == (work, len(opening.prompt_ids), opening.eos_ids)
        assert trace.tokens.tolist() == tokens
        _check_rows(pair.draft, trace, opening)


def _check_rows(draft: Path, trace: Trace, opening: Opening) -> None:
    """A new drafter as the agent has it, in one of its lanes; other rows than the recorder's were drafted before."""
    from pipesd_agent.drafting.llama import LlamaDrafter

    start, eos = len(opening.prompt_ids), frozenset(opening.eos_ids)
    chosen = {0, *np.random.default_rng(start).choice(len(trace.tokens), 8, replace=False).tolist()}
    rows: list[list[DraftToken]] = []
    drafter = LlamaDrafter(draft)
    try:
        drafter.open(2, opening.prompt_ids, opening.params)
        for position, decided in enumerate(trace.tokens.tolist()):
            if position:
                drafter.draft([], [2])  # so that every forward after the prompt has one row
            rows.append(_draft(drafter, 2, eos) if position in chosen else [])
            drafter.truncate(2, start + position)
            drafter.extend(2, [decided])
    finally:
        drafter.release()
    found = trace_of(trace.name, opening, trace.tokens.tolist(), rows)
    found.drafts[[not row for row in rows]] = UNKNOWN
    assert differing(found, trace) < 0.5


def _draft(drafter: Drafter, lane: int, eos: frozenset[int]) -> list[DraftToken]:
    row: list[DraftToken] = []
    while len(row) < DEPTH and not (row and row[-1].token in eos):
        (token,) = drafter.draft([lane])
        if isinstance(token, DraftToken):
            row.append(token)
        else:
            assert token is NoDraft.UNFINISHED
    return row
