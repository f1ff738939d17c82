"""The real pair in tests: questions for SmolLM2, and its answers through an agent compared with its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from harness import BUILD, agent_thread, in_parallel
from openai import OpenAI

from bench.proving.traces.workloads import Work, shortest
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter

NAME: Final = "SmolLM2-135M-Instruct"
TEMPERATURES: Final = (0.0, 0.8)
SEED: Final = 17
ANSWER_S: Final = 900.0
"""Longest time for an answer, on a busy machine."""
AT_ONCE: Final = 12
"""Questions: rows of many answers in one forward cost half of what they cost in forwards of their own."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A question; each is one of its own."""

    work: Work
    temperature: float


Reference = dict[Cell, tuple[str, str]]
"""Text and finish reason."""


@dataclass(frozen=True)
class Asked:
    """Who is asked: an agent, or a target alone. extra: fields of the request that no OpenAI client has."""

    url: str
    model: str = NAME
    key: str = "none"
    extra: dict[str, Any] = field(default_factory=dict)

    def ask(self, cell: Cell, tokens: int, *, stream: bool) -> tuple[str, str, int]:
        """(text, finish reason, accepted drafts: 0 for a target alone), by the OpenAI client."""
        client = OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=ANSWER_S)
        request: dict[str, Any] = cell.work.ask | {
            "model": self.model,
            "max_tokens": tokens,
            "temperature": cell.temperature,
            "seed": SEED,
            "extra_body": self.extra,
        }
        if not stream:
            answer = client.chat.completions.create(**request)
            choice = answer.choices[0]
            return choice.message.content or "", str(choice.finish_reason), _accepted(answer.usage)
        text, reason, drafts = "", "", 0
        for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
            drafts = _accepted(chunk.usage) if chunk.usage else drafts
        return text, reason, drafts

    def answers(self, cells: Sequence[Cell], tokens: int) -> list[tuple[str, str, int]]:
        """`AT_ONCE` at a time, in turns streamed and not."""

        def one(numbered: tuple[int, Cell]) -> tuple[str, str, int]:
            number, cell = numbered
            return self.ask(cell, tokens, stream=number % 2 == 0)

        return in_parallel(one, list(enumerate(cells)), AT_ONCE)

    def reference(self, cells: Sequence[Cell], tokens: int) -> Reference:
        """What this target alone writes."""
        found = self.answers(cells, tokens)
        return {cell: (text, reason) for cell, (text, reason, _) in zip(cells, found, strict=True)}


def compare(config: AgentConfig, drafter: Drafter, expected: Reference, tokens: int, model: str = NAME) -> None:
    """Raises AssertionError for a text through an agent that is not the target's own."""
    with agent_thread(config, drafter) as agent:
        found = Asked(agent.url, model).answers(list(expected), tokens)
    for (cell, own), (text, reason, _) in zip(expected.items(), found, strict=True):
        assert (text, reason) == own, cell
    assert sum(drafts for *_, drafts in found) > len(found), "hardly anything was accepted: this proves little"


def shortest_cells(of_each_kind: int) -> list[Cell]:
    """The shortest prompts of each kind, at each temperature."""
    return [Cell(work, temperature) for temperature, work in itertools.product(TEMPERATURES, shortest(of_each_kind))]


def built(name: str) -> Path:
    """A file or folder that `make smollm2` leaves in .build; without it the test is skipped, and says so."""
    path = BUILD / name
    if not path.exists():
        pytest.skip(f"{path} is not there: SmolLM2 could not be fetched (make smollm2 says why)")
    return path


def _accepted(usage: Any) -> int:
    figures: dict[str, int] = (usage.model_extra or {}).get("pipesd", {})
    return figures.get("accepted", 0)
