"""Lossless with vLLM: what a client gets through the agent is, byte for byte, what vLLM writes without a session."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from harness import DRAFT, prompts
from matrix import Reference, compare, references
from vllm_server import KEY, VllmServer, target_only

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.triggers import DualSettings, FixedSettings, TriggerSettings
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.session.settings import SessionSettings

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "T=1": {"temperature": 1.0, "seed": 2**40 + 12345},
    "T=1 top_p top_k": {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": -7},
}

BIASED: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logit_bias": {"12": 4, "69": -100, "268": -2.5}},
    "T=0.8": {
        "temperature": 0.8,
        "min_p": 0.1,
        "logit_bias": {"12": 2, "326": -1},
        "repetition_penalty": 1.1,
        "seed": 2**40 + 12345,
    },
}


@pytest.fixture(scope="module")
def forty(server: VllmServer) -> Reference:
    return references(partial(target_only, server.url), SAMPLING, prompts(40))


CASES: dict[str, tuple[float, TriggerSettings, int]] = {
    "demo draft": (0.0, DualSettings(), 32),
    "30 % wrong": (0.3, DualSettings(), 32),
    "every token": (0.0, FixedSettings(length=1), 32),
    "after 8, wrong": (0.3, FixedSettings(length=8), 32),
    "after 40": (0.0, FixedSettings(length=40), 48),
}
"""Share of wrong drafts, trigger, window. A step of the server verifies 15 drafts."""


@pytest.mark.parametrize("case", CASES)
def test_text_is_the_targets_own(server: VllmServer, forty: Reference, case: str) -> None:
    wrong, trigger, window = CASES[case]
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    config = AgentConfig(
        gateway=server.root,
        gateway_api_keys=frozenset({KEY}),
        trigger=trigger,
        # A target that does not wait for drafts writes most of an answer alone where the machine is busy.
        session=SessionSettings(window=window, free_start=1),
    )
    compare(config, drafter, forty, SAMPLING)
    assert server.engine()["sessions"] == 0


def test_text_with_biases_and_min_p_is_the_targets_own(server: VllmServer) -> None:
    """vLLM alone refuses both with drafts; here also what comes without an agent is served beside them."""
    expected = references(partial(target_only, server.url), BIASED, prompts(16))
    config = AgentConfig(gateway=server.root, gateway_api_keys=frozenset({KEY}), session=SessionSettings(free_start=1))
    compare(config, WrongDrafter(LlamaDrafter(DRAFT), 0.2), expected, BIASED)
    plain = references(partial(target_only, server.url), {"greedy": {"temperature": 0}}, prompts(16))
    changed = [cell for cell, text in plain.items() if expected[cell] != text]
    assert len(changed) > 8, "hardly a text was changed: this proves little"
