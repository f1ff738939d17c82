"""Many sessions next to ordinary requests; more sessions than memory; clients and agents that vanish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from event_stream import data_of
from harness import DRAFT, AgentThread, agent_thread, complete, in_parallel, prompts, wait_until
from vllm_server import HEADERS, KEY, VllmServer, post, target_only

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 48}


@pytest.fixture(scope="module")
def agent(server: VllmServer) -> Iterator[AgentThread]:
    with agent_on(server) as thread:
        yield thread


def agent_on(server: VllmServer) -> Any:
    config = AgentConfig(gateway=server.root, gateway_api_keys=frozenset({KEY}), capacity=16)
    return agent_thread(config, LlamaDrafter(DRAFT, capacity=16))


def chat(url: str, number: int) -> str:
    messages = [{"role": "user", "content": f"Write a Python function number {number}."}]
    body = {"messages": messages, "max_tokens": 48, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": number}
    answer = post(url, "chat/completions", body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_sixteen_sessions_next_to_ordinary_chats(server: VllmServer, agent: AgentThread) -> None:
    texts = prompts(16)
    expected = in_parallel(lambda prompt: target_only(server.url, prompt, **SEEDED), texts, 4)
    chats = [chat(server.url, number) for number in range(8)]
    with ThreadPoolExecutor(24) as pool:
        ordinary = [pool.submit(chat, server.url, number) for number in range(8)]
        sessions = [pool.submit(complete, agent.url, prompt, stream=True, **SEEDED) for prompt in texts]
        assert [session.result()[:2] for session in sessions] == expected
        assert [request.result() for request in ordinary] == chats
    assert server.engine()["sessions"] == 0


def test_more_sessions_than_blocks(tmp_path_factory: pytest.TempPathFactory) -> None:
    texts = prompts(16)
    asked = SEEDED | {"max_tokens": 96, "ignore_eos": True}
    with VllmServer(tmp_path_factory.mktemp("vllm"), "--num-gpu-blocks-override", "48") as small:
        expected = in_parallel(lambda prompt: target_only(small.url, prompt, **asked), texts, 2)
        with agent_on(small) as agent:
            got = in_parallel(lambda prompt: complete(agent.url, prompt, **asked)[:2], texts, 16)
        figures = small.engine()
    assert got == expected
    assert figures["evictions"] > 0
    assert figures["sessions"] == 0


def steps(server: VllmServer) -> int:
    return server.engine()["steps"]


def idle(server: VllmServer, condition: Callable[[], bool]) -> None:
    wait_until(condition, 30)
    before = steps(server)
    time.sleep(0.5)
    assert steps(server) == before, "parked sessions or none at all, and the engine is still stepping"


def test_a_vanished_client_frees_everything(server: VllmServer, agent: AgentThread) -> None:
    body = {"model": "pipesd-demo-target", "prompt": "0, " * 40, "max_tokens": 800, "stream": True, "ignore_eos": True}
    for _ in range(4):
        with httpx.Client(timeout=60) as client, client.stream("POST", f"{agent.url}/completions", json=body) as answer:
            next(data_of(answer))
    idle(server, lambda: server.engine()["sessions"] == 0)


def test_a_forged_park_key_parks_nothing(server: VllmServer) -> None:
    for forged in ("0" * 32 + "." + "0" * 64, "x", ""):
        asked = {"prompt": "x = ", "max_tokens": 16, "vllm_xargs": {"pipesd_key": forged}, "temperature": 0}
        answer = post(server.url, "completions", asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0
    assert server.engine()["sessions"] == 0


def test_the_key_is_asked_for(server: VllmServer) -> None:
    for path in ("pipesd/info", "models"):
        assert httpx.get(f"{server.url}/{path}", timeout=30).status_code == 401
    assert httpx.get(f"{server.url}/pipesd/info", headers=HEADERS, timeout=30).status_code == 200
