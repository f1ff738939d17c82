"""Lossless: what a client gets through the agent is, byte for byte, what the target alone writes.

F32 target, flash attention, separate KV, 2..63 rows of each sequence per call (`llamacpp.runtime.rows`): so `==` is the
test.
The reference is the gateway's plain HTTP API: the same engine, empty drafts, no session.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import DRAFT, MODEL, Process, agent_thread, complete, gateway, prompts
from matrix import Reference, compare, references
from openai import OpenAI
from whims import AnyBatcher, AnyTrigger, Whims

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.controller import Controller
from pipesd_agent.control.triggers import DualSettings, FixedSettings, TriggerSettings
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.session.policies import Policies

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "T=0.7": {"temperature": 0.7, "seed": 11},
    "T=1": {"temperature": 1.0, "seed": 2**40 + 12345},
    "T=1 top_p top_k": {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "seed": -7},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--log-level", "warning") as process:
        yield process


def target_only(target: Process, texts: list[str]) -> Reference:
    def ask(prompt: str, **parameters: Any) -> tuple[str, str]:
        text, reason, usage = complete(target.url, prompt, **parameters)
        assert "pipesd" not in usage
        return text, reason

    return references(ask, SAMPLING, texts)


@pytest.fixture(scope="module")
def forty(target: Process) -> Reference:
    return target_only(target, prompts(40))


CASES: dict[str, tuple[float, TriggerSettings, str]] = {
    "dual threshold": (0.0, DualSettings(), "immediate"),
    "30 % wrong": (0.3, DualSettings(), "immediate"),
    "every token": (0.0, FixedSettings(length=1), "immediate"),
    "after 8, wrong": (0.3, FixedSettings(length=8), "single"),
    "after 32": (0.0, FixedSettings(length=32), "immediate"),
}


@pytest.mark.parametrize("case", CASES)
def test_text_is_the_targets_own(target: Process, forty: Reference, case: str) -> None:
    wrong, trigger, batcher = CASES[case]
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    config = AgentConfig(gateway=target.root, trigger=trigger, batcher=batcher)
    compare(config, drafter, forty, SAMPLING)


def test_prompt_lookup(target: Process, forty: Reference) -> None:
    few = {cell: answer for cell, answer in forty.items() if cell[1] in prompts(10)}
    compare(AgentConfig(gateway=target.root), LookupDrafter(), few, SAMPLING)


def test_policies_that_change_in_mid_answer(target: Process, forty: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """When to verify, when to send, when to draft at all: at random, in each session others."""
    modes = [Whims(seed, 0.1) for seed in range(100)]
    unused = iter(modes)

    def policies(_: Controller) -> Policies:
        mode = next(unused)
        return Policies(AnyTrigger(mode.rng), AnyBatcher(mode.rng), mode=mode)

    monkeypatch.setattr(Controller, "policies", policies)
    few = {cell: answer for cell, answer in forty.items() if cell[1] in prompts(12)}
    compare(AgentConfig(gateway=target.root), WrongDrafter(LlamaDrafter(DRAFT), 0.1), few, SAMPLING)
    assert sum(mode.changes for mode in modes) > len(few)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES)
def test_text_is_the_targets_own_all_prompts(target: Process, all_prompts: Reference, case: str) -> None:
    test_text_is_the_targets_own(target, all_prompts, case)


@pytest.fixture(scope="module")
def all_prompts(target: Process) -> Reference:
    return target_only(target, prompts(164))


def test_without_a_seed_answers_differ(target: Process) -> None:
    with agent_thread(AgentConfig(gateway=target.root, draft_model=Path(DRAFT))) as agent:
        client = OpenAI(base_url=agent.url, api_key="none", max_retries=0)
        ask: dict[str, Any] = {"model": MODEL, "prompt": "import ", "max_tokens": 32, "temperature": 1.0}
        raw = [client.completions.with_raw_response.create(**ask) for _ in range(4)]
        texts = [answer.parse().choices[0].text for answer in raw]
        assert len(set(texts)) == 4
        # The effective seed in the header gives the same text again, from the target alone too.
        seed = int(raw[0].headers["x-pipesd-seed"])
        assert client.completions.create(**ask, seed=seed).choices[0].text == texts[0]
        target_only = OpenAI(base_url=target.url, api_key="none", max_retries=0)
        assert target_only.completions.create(**ask, seed=seed).choices[0].text == texts[0]


def test_chat_turns_with_the_openai_client(target: Process) -> None:
    """Two turns, streamed by the real client: the second reuses the first's cache on both sides."""
    with agent_thread(AgentConfig(gateway=target.root, draft_model=Path(DRAFT))) as agent:
        texts = {}
        for url in (target.url, agent.url):
            client = OpenAI(base_url=url, api_key="none", max_retries=0)
            messages: list[Any] = [{"role": "system", "content": "You write Python."}]
            for question in ("Write a Python function `add`. Adds two numbers.", "Now a function `sub`, please."):
                messages.append({"role": "user", "content": question})
                answer, usage = "", None
                for chunk in client.chat.completions.create(
                    model=MODEL,
                    messages=messages,
                    max_tokens=40,
                    temperature=0.7,
                    seed=5,
                    stop=["\n\n\n"],
                    stream=True,
                    stream_options={"include_usage": True},
                ):
                    answer += (chunk.choices and chunk.choices[0].delta.content) or ""
                    usage = chunk.usage or usage
                messages.append({"role": "assistant", "content": answer})
                assert usage is not None
            texts[url] = [message["content"] for message in messages]
        assert texts[target.url] == texts[agent.url]
