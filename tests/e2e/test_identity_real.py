"""Lossless on a real model: what a client gets through the agent is, byte for byte, what SmolLM2 alone writes.

F16 weights in CI, F32 in the long form. The drafter is prompt lookup, one that is wrong on purpose, or the draft model
of `examples/smollm2`, where that ships.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest
from harness import BUILD, Process, agent_thread, gateway, in_parallel
from openai import OpenAI

from bench.faulty_drafter import WrongDrafter
from bench.proving.traces.workloads import REAL_KINDS, Work, real_prompts
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.lookup import LookupDrafter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME: Final = "SmolLM2-135M-Instruct"
TEMPERATURES: Final = (0.0, 0.8)
SEED: Final = 17


@dataclass(frozen=True)
class Cell:
    work: Work
    temperature: float


Reference = dict[Cell, tuple[str, str]]
"""Text and finish reason."""


def ask(url: str, cell: Cell, tokens: int, *, stream: bool) -> tuple[str, str, int]:
    """(text, finish reason, accepted drafts; 0 for the target alone) of a chat, by the OpenAI client."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    options: dict[str, Any] = {"model": NAME, "max_tokens": tokens, "temperature": cell.temperature, "seed": SEED}
    if not stream:
        answer = client.chat.completions.create(**cell.work.ask, **options)
        choice = answer.choices[0]
        return choice.message.content or "", str(choice.finish_reason), accepted(answer.usage)
    text, reason, drafts = "", "", 0
    for chunk in client.chat.completions.create(
        **cell.work.ask, **options, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
        drafts = accepted(chunk.usage) if chunk.usage else drafts
    return text, reason, drafts


def accepted(usage: Any) -> int:
    figures: dict[str, int] = (usage.model_extra or {}).get("pipesd", {})
    return figures.get("accepted", 0)


def answers(url: str, cells: Sequence[Cell], tokens: int) -> list[tuple[str, str, int]]:
    """Four at a time, in turns streamed and not."""

    def one(numbered: tuple[int, Cell]) -> tuple[str, str, int]:
        number, cell = numbered
        return ask(url, cell, tokens, stream=number % 2 == 0)

    return in_parallel(one, list(enumerate(cells)), 4)


def reference(target: Process, cells: Sequence[Cell], tokens: int) -> Reference:
    """What the target alone writes."""
    found = answers(target.url, cells, tokens)
    return {cell: (text, reason) for cell, (text, reason, _) in zip(cells, found, strict=True)}


def compare(target: Process, drafter: Drafter, expected: Reference, tokens: int) -> None:
    with agent_thread(AgentConfig(gateway=target.root), drafter) as agent:
        found = answers(agent.url, list(expected), tokens)
    for (cell, own), (text, reason, _) in zip(expected.items(), found, strict=True):
        assert (text, reason) == own, cell
    assert sum(drafts for *_, drafts in found) > len(found), "hardly anything was accepted: this proves little"


def twelve() -> list[Cell]:
    """Three prompts of each kind, the shortest of them: long ones cost time, and prove no more."""
    works = [
        work for kind in REAL_KINDS for work in sorted(real_prompts(kind), key=lambda work: len(str(work.ask)))[:3]
    ]
    return [Cell(work, temperature) for work, temperature in itertools.product(works, TEMPERATURES)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from _target(tmp_path_factory, "F16")


@pytest.fixture(scope="module")
def exact_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from _target(tmp_path_factory, "F32")


def _target(tmp_path_factory: pytest.TempPathFactory, weights: str) -> Iterator[Process]:
    model = BUILD / f"smollm2-{weights}.gguf"
    if not model.exists():
        pytest.skip(f"{model.name} could not be built here (python -m examples.smollm2.build {weights})")
    with gateway(tmp_path_factory.mktemp("gateway"), "--log-level", "warning", model=model) as process:
        yield process


@pytest.fixture(scope="module")
def expected(target: Process) -> Reference:
    return reference(target, twelve(), 64)


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "lookup": LookupDrafter,
    "30 % wrong": lambda: WrongDrafter(LookupDrafter(), 0.3),
}


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_text_is_the_real_targets_own(target: Process, expected: Reference, drafter: str) -> None:
    compare(target, DRAFTERS[drafter](), expected, 64)


@pytest.mark.full
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_text_is_the_real_targets_own_in_float32(exact_target: Process, drafter: str) -> None:
    compare(exact_target, DRAFTERS[drafter](), reference(exact_target, twelve(), 48), 48)


@pytest.mark.full
def test_all_prompts_once(target: Process) -> None:
    cells = [Cell(work, 0.0) for kind in REAL_KINDS for work in real_prompts(kind)]
    compare(target, LookupDrafter(), reference(target, cells, 64), 64)
