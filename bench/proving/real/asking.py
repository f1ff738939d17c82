"""What the real parts are asked and configured with, and what they say that they did. Needs no model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.proving.simulator.figures import Figures
from bench.proving.simulator.script import Script
from bench.proving.simulator.simulation import Ours
from bench.proving.traces.recorded import CONTEXT, DRAFT, FIRST_SEED, TOKENS, recorded
from bench.proving.traces.workloads import COUNT, workload
from pipesd_core.protocol.messages import Endpoint

PLACES: Final = 2
"""Of gateway and drafter. A prompt that has just been asked is in their caches, and not computed again."""
WARMING_TOKENS: Final = 4
"""Of the answer that brings a prompt into the caches."""


@dataclass(frozen=True)
class Question:
    """An answer of a table, and the request that it is the answer to. warming: the same, for few tokens."""

    script: Script
    endpoint: Endpoint
    body: bytes
    warming: bytes


def questions(name: str, temperature: float, count: int) -> list[Question]:
    """`count` answers, spread over a table."""
    table, works = recorded(name, temperature), workload(name)
    found = []
    for number in range(COUNT // count // 2, COUNT, COUNT // count)[:count]:
        work, trace = works[number], table.traces[number]
        assert work.name == trace.name, f"{table.name} is of other works: {trace.name} where {work.name} should be"
        body, warming = (
            work.body(temperature=temperature, seed=FIRST_SEED + number, max_tokens=tokens, stream=True)
            for tokens in (TOKENS, WARMING_TOKENS)
        )
        found.append(Question(Script(trace, body), work.endpoint, body, warming))
    return found


def configuration(gateway_url: str, ours: Ours, trace: Path | None = None, *, auto: bool = False) -> str:
    """Of the agent, TOML. auto: the mode that it finds best."""
    own = {
        "gateway": gateway_url,
        "port": 0,
        "mode": "auto" if auto else "collaborative" if ours.drafts else "cloud",
        "capacity": PLACES,
        "context": CONTEXT,
        "batcher": ours.batcher,
        "log_level": "warning",
        **({"draft_model": str(DRAFT)} if ours.drafts else {}),
        **({"trace": str(trace)} if trace else {}),
    }
    tables = {
        "trigger": msgspec.to_builtins(ours.trigger),
        "session": {k: v for k, v in msgspec.to_builtins(ours.session).items() if v is not None},
    }
    if not auto:
        tables["tuner"] = {"enabled": False}  # the virtual agent's thresholds stay, too
    lines = [f"{name} = {json.dumps(value)}" for name, value in own.items()]
    for table, settings in tables.items():
        lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def figures_of(record: dict[str, Any], bytes_up: float, bytes_down: float) -> Figures:
    """A request's record (`GET /v1/pipesd/requests/{id}`) as a simulation's figures, as far as it goes."""
    counts = record["counts"]
    same = ("forwards", "navs", "sent", "accepted", "drafted", "rollbacks")
    return Figures(
        answers=1,
        tokens=record["output_tokens"],
        seconds=record["seconds"],
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        **{name: counts[name] for name in same},
    )
