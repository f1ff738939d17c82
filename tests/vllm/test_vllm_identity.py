"""Lossless with vLLM: what a client gets through the agent is, byte for byte, what vLLM writes without a session."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness import DRAFT, agent_thread, in_parallel, prompts
from vllm_server import KEY, NOISE, VllmServer, complete

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.types import Drafter
from pipesd_agent.drafting.wrong import WrongDrafter
from pipesd_agent.session import SessionSettings
from pipesd_agent.trigger import TriggerSettings

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

TOKENS = 64
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "T=1": {"temperature": 1.0, "seed": 2**40 + 12345},
    "T=1 top_p top_k": {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": -7},
}
Cell = tuple[str, str]


@pytest.fixture(scope="module")
def forty(server: VllmServer) -> dict[Cell, tuple[str, str]]:
    cells = list(itertools.product(SAMPLING, prompts(40)))

    def one(cell: Cell) -> tuple[str, str]:
        return complete(server.url, cell[1], max_tokens=TOKENS, **SAMPLING[cell[0]], **NOISE)[:2]

    return dict(zip(cells, in_parallel(one, cells, 4), strict=True))


CASES: dict[str, tuple[float, TriggerSettings, int]] = {
    "demo draft": (0.0, TriggerSettings(), 32),
    "30 % wrong": (0.3, TriggerSettings(), 32),
    "every token": (0.0, TriggerSettings(kind="fixed", length=1), 32),
    "after 8, wrong": (0.3, TriggerSettings(kind="fixed", length=8), 32),
    "after 40": (0.0, TriggerSettings(kind="fixed", length=40), 48),
}
"""Share of wrong drafts, trigger, window. A step of the server verifies 16 drafts."""


@pytest.mark.parametrize("case", CASES)
def test_text_is_the_targets_own(server: VllmServer, forty: dict[Cell, tuple[str, str]], case: str) -> None:
    wrong, trigger, window = CASES[case]
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    config = AgentConfig(
        gateway=server.root,
        gateway_api_keys=frozenset({KEY}),
        trigger=trigger,
        session=SessionSettings(window=window),
    )
    cells = list(forty)
    with agent_thread(config, drafter) as agent:

        def one(numbered: tuple[int, Cell]) -> tuple[str, str, dict[str, Any]]:
            number, (sampling, prompt) = numbered
            return complete(agent.url, prompt, stream=number % 2 == 0, max_tokens=TOKENS, **SAMPLING[sampling])

        answers = in_parallel(one, list(enumerate(cells)), 4)
    accepted = sent = tokens = 0
    for cell, (text, reason, usage) in zip(cells, answers, strict=True):
        assert (text, reason) == forty[cell], cell
        details = usage["completion_tokens_details"]
        tokens += usage["completion_tokens"]
        accepted += details["accepted_prediction_tokens"]
        sent += details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
    assert tokens > 10 * len(cells), "the answers are too short to prove anything"
    assert accepted > 0.1 * tokens, "hardly anything was drafted: this proves little"
    print(f"{tokens / len(cells):.1f} tokens per answer, {accepted / sent:.0%} of the drafts accepted")
    assert server.engine()["sessions"] == 0
