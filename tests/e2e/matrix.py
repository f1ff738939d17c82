"""The identity test's matrix: prompts x samplings, each answer through an agent compared with the target's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from harness import agent_thread, complete, complete_by_openai, in_parallel

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter

TOKENS = 64
Samplings = dict[str, dict[str, Any]]
Cell = tuple[str, str]
"""Name of a sampling, prompt."""
Reference = dict[Cell, tuple[str, str]]
"""Text and finish reason."""


def references(ask: Callable[..., tuple[str, str]], samplings: Samplings, texts: list[str]) -> Reference:
    """What the target alone writes. ask: prompt and parameters to text and finish reason."""
    cells = list(itertools.product(samplings, texts))

    def one(cell: Cell) -> tuple[str, str]:
        return ask(cell[1], max_tokens=TOKENS, **samplings[cell[0]])

    return dict(zip(cells, in_parallel(one, cells, 4), strict=True))


def compare(config: AgentConfig, drafter: Drafter, reference: Reference, samplings: Samplings) -> None:
    """Every cell through an agent, 4 at a time; in turns streaming and not, by plain HTTP and by the OpenAI client."""
    cells = list(reference)
    with agent_thread(config, drafter) as agent:

        def one(numbered: tuple[int, Cell]) -> tuple[str, str, dict[str, Any]]:
            number, (sampling, prompt) = numbered
            ask = (complete, complete_by_openai)[number // 2 % 2]
            return ask(agent.url, prompt, stream=number % 2 == 0, max_tokens=TOKENS, **samplings[sampling])

        answers = in_parallel(one, list(enumerate(cells)), 4)
    accepted = sent = tokens = 0
    for cell, (text, reason, usage) in zip(cells, answers, strict=True):
        assert (text, reason) == reference[cell], cell
        drafts = usage["pipesd"]
        tokens += usage["completion_tokens"]
        accepted += drafts["accepted"]
        sent += drafts["accepted"] + drafts["rejected"]
    assert tokens > 10 * len(cells), "the answers are too short to prove anything"
    assert accepted > 0.1 * tokens, "hardly anything was drafted: this proves little"
    print(f"{tokens / len(cells):.1f} tokens per answer, {accepted / sent:.0%} of the drafts accepted")
