"""A server that stops: whoever waits for an answer is told so, at the latest when the agent's grace time is over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from harness import DRAFT, LONG, MODEL, agent_thread, openai_error, wait_until
from vllm_server import KEY, VllmServer

from pipesd_agent.config import AgentConfig
from pipesd_agent.control.triggers import FixedSettings
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.session.settings import SessionSettings

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

BODY: dict[str, Any] = {"model": MODEL, "prompt": LONG, "max_tokens": 900, "ignore_eos": True, "temperature": 1}
TOLD_WITHIN_S = 20.0


def test_sigterm_ends_every_session_with_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    with VllmServer(tmp_path_factory.mktemp("vllm")) as server:
        # One draft a time, and nothing by the target alone, so that answers last.
        config = AgentConfig(
            gateway=server.root,
            gateway_api_keys=frozenset({KEY}),
            trigger=FixedSettings(length=1),
            mode="collaborative",
            session=SessionSettings(grace_s=3.0, free_start=1),
        )
        with agent_thread(config, LlamaDrafter(DRAFT)) as agent, ThreadPoolExecutor(4) as pool:

            def ask(stream: bool) -> httpx.Response:
                return httpx.post(f"{agent.url}/completions", json={**BODY, "stream": stream}, timeout=120)

            asked = [pool.submit(ask, stream) for stream in (True, False, True, False)]

            def all_run() -> bool:
                over = [answer.result().text[:500] for answer in asked if answer.done()]
                assert not over, f"answers that are over already: {over}"
                return server.engine()["sessions"] == 4

            wait_until(all_run)
            began = time.monotonic()
            assert server.stop() == 0
            for number, answer in enumerate(asked):
                response = answer.result()
                if number % 2:
                    openai_error(response, 503)
                else:
                    assert response.text.rstrip().rpartition("data: ")[2].startswith('{"error"')
            assert time.monotonic() - began < TOLD_WITHIN_S
