"""LoRA adapters: a server starts with default flags, and an adapter's text through the agent is the server's own."""

from __future__ import annotations

from typing import Any

import pytest
from harness import DRAFT, MODEL, agent_thread, complete, in_parallel, prompts
from lora_adapter import write_adapter
from test_vllm_draw import run_script
from vllm_server import KEY, TARGET, VllmServer, target_only

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.session.settings import SessionSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SAMPLING: tuple[dict[str, Any], ...] = ({"temperature": 0}, {"temperature": 1.0, "seed": 5, "top_p": 0.9})
ADAPTERS = ("one", "two")


def test_flags_are_right_by_default() -> None:
    assert run_script("lora_check.py", 200, str(TARGET)).endswith("right by default")


@pytest.mark.full
def test_text_of_adapters_is_the_servers_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two adapters at once, where a step has room for one: sessions wait for each other.

    The target without an adapter is asked alone: on a CPU vLLM 0.32 computes ordinary requests without one, in a step
    that has an adapter, with that adapter.
    """
    folder = tmp_path_factory.mktemp("adapters")
    modules = [f"{name}={write_adapter(folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
    asked = [(at, prompt) for at in range(len(SAMPLING)) for prompt in prompts(6)]
    cells = [(model, at, prompt) for at, prompt in asked for model in ADAPTERS]

    with VllmServer(tmp_path_factory.mktemp("vllm"), "--enable-lora", "--lora-modules", *modules) as server:

        def alone(cell: tuple[str, int, str]) -> tuple[str, str]:
            return target_only(server.url, cell[2], model=cell[0], max_tokens=32, **SAMPLING[cell[1]])

        without = in_parallel(alone, [(MODEL, at, prompt) for at, prompt in asked], 6)
        expected = in_parallel(alone, cells, 6)
        config = AgentConfig(
            gateway=server.root, gateway_api_keys=frozenset({KEY}), session=SessionSettings(free_start=1)
        )
        with agent_thread(config, WrongDrafter(LlamaDrafter(DRAFT), 0.2)) as agent:

            def drafted(cell: tuple[str, int, str]) -> tuple[str, str, dict[str, Any]]:
                return complete(agent.url, cell[2], model=cell[0], max_tokens=32, **SAMPLING[cell[1]])

            got = in_parallel(drafted, cells, 6)
        assert server.engine()["sessions"] == 0
    assert [answer[:2] for answer in got] == expected
    texts = {cell: text for cell, (text, _) in zip(cells, expected, strict=True)}
    for model in ADAPTERS:
        assert [texts[model, at, prompt] for at, prompt in asked] != [text for text, _ in without]
    assert [texts[ADAPTERS[0], *cell] for cell in asked] != [texts[ADAPTERS[1], *cell] for cell in asked]
    assert sum(usage["pipesd"]["accepted"] for *_, usage in got) > 100
