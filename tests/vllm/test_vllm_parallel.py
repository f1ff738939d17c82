"""Tensor parallelism: two workers sample, and both draw the same noise. (Pipeline parallelism is refused at start.)"""

from __future__ import annotations

from typing import Any

import pytest
from harness import DRAFT, agent_thread, complete, in_parallel, prompts
from vllm_server import KEY, VllmServer, target_only

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(900)]

SAMPLING: tuple[dict[str, Any], ...] = ({"temperature": 0}, {"temperature": 1.0, "seed": 5})


def test_two_workers_write_the_same_text(tmp_path_factory: pytest.TempPathFactory) -> None:
    cells = [(sampling, prompt) for sampling in SAMPLING for prompt in prompts(8)]
    with VllmServer(tmp_path_factory.mktemp("vllm"), "--tensor-parallel-size", "2") as server:
        config = AgentConfig(gateway=server.root, gateway_api_keys=frozenset({KEY}))
        expected = in_parallel(lambda cell: target_only(server.url, cell[1], max_tokens=48, **cell[0]), cells, 4)
        with agent_thread(config, LlamaDrafter(DRAFT)) as agent:
            got = in_parallel(lambda cell: complete(agent.url, cell[1], max_tokens=48, **cell[0]), cells, 4)
    assert [answer[:2] for answer in got] == expected
    assert sum(usage["pipesd"]["accepted"] for *_, usage in got) > 100
