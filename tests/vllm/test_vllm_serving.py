"""vLLM's own features through the agent: the answer equals the one straight from vLLM under the same sampler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness import DRAFT, AgentThread, agent_thread
from vllm_server import KEY, NOISE, VllmServer, post

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.wrong import WrongDrafter

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 77}
GREEDY: dict[str, Any] = {"temperature": 0}
PROMPT = 'def add(a, b):\n    """Add two numbers.'
CHAT = [{"role": "user", "content": "Write a Python function `add`."}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weigh", "description": "Weighs.", "parameters": SCHEMA}}
FEATURES: dict[str, tuple[str, dict[str, Any]]] = {
    "logprobs": ("completions", {"logprobs": 3, "prompt": PROMPT}),
    "stop string": ("completions", {"stop": ["return", "self"], "prompt": PROMPT}),
    "stop string kept": ("completions", {"stop": ["a"], "include_stop_str_in_output": True, "prompt": PROMPT}),
    "stop ids": ("completions", {"stop_token_ids": [300, 301, 302], "prompt": PROMPT}),
    "penalties": (
        "completions",
        {"presence_penalty": 0.7, "frequency_penalty": 0.5, "repetition_penalty": 1.2, "prompt": PROMPT},
    ),
    "bad words": ("completions", {"bad_words": [" the", "return", "in"], "prompt": PROMPT}),
    "min_tokens": ("completions", {"min_tokens": 30, "prompt": "x"}),
    "echo": ("completions", {"echo": True, "prompt": PROMPT}),
    "chat": ("chat/completions", {"messages": CHAT}),
    "chat logprobs": ("chat/completions", {"messages": CHAT, "logprobs": True, "top_logprobs": 2}),
    "json schema": (
        "chat/completions",
        {
            "messages": CHAT,
            "response_format": {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}},
        },
    ),
    "named tool": (
        "chat/completions",
        {"messages": CHAT, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weigh"}}},
    ),
}
VARYING = ("id", "created", "metrics", "system_fingerprint")


@pytest.fixture(scope="module")
def agent(server: VllmServer) -> Iterator[AgentThread]:
    config = AgentConfig(gateway=server.root, gateway_api_keys=frozenset({KEY}))
    with agent_thread(config, WrongDrafter(LlamaDrafter(DRAFT), 0.1)) as thread:
        yield thread


def same(answer: Any) -> Any:
    """Without what differs between any two answers."""
    if isinstance(answer, dict):
        return {key: same(value) for key, value in answer.items() if key not in VARYING}
    if isinstance(answer, list):
        return [same(value) for value in answer]
    return answer


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def close(a: Any, b: Any) -> None:
    """Equal; numbers may differ by rounding."""
    if isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, abs=1e-3)
    elif isinstance(a, dict) and isinstance(b, dict):
        assert set(a) == set(b)
        for key in a:
            close(a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            close(left, right)
    else:
        assert a == b


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("feature", FEATURES)
def test_answer_is_vllms_own(server: VllmServer, agent: AgentThread, feature: str, sampling: dict[str, Any]) -> None:
    path, body = FEATURES[feature]
    asked = {"max_tokens": 40, **body, **sampling}
    direct, ours = post(server.url, path, asked | NOISE), post(agent.url, path, asked)
    assert direct.status_code == 200, direct.text
    assert ours.status_code == 200, ours.text
    expected, got = same(direct.json()), same(ours.json())
    assert got["usage"].pop("completion_tokens_details")["accepted_prediction_tokens"] >= 0
    expected["usage"].pop("completion_tokens_details", None)
    close(_without_call_ids(got), _without_call_ids(expected))


def _without_call_ids(answer: dict[str, Any]) -> dict[str, Any]:
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls") or ():
            call.pop("id", None)
    return answer


def test_streamed_chat_is_vllms_own(server: VllmServer, agent: AgentThread) -> None:
    asked = {"messages": CHAT, "max_tokens": 40, "stream": True, **SEEDED}
    told = []
    for url, more in ((server.url, NOISE), (agent.url, {})):
        chunks = events(post(url, "chat/completions", asked | more))
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
        told.append((text, chunks[-1]["choices"][0]["finish_reason"]))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": "x", "min_p": 0.1}, 400, "min_p and logit_bias"),
        ({"prompt": "x", "logit_bias": {"5": 1}}, 400, "min_p and logit_bias"),
        ({"prompt": "x", "temperature": -1}, 400, "temperature"),
        ({"prompt": "x", "max_tokens": 5000}, 400, "5000"),
        ({"prompt": "x", "n": 2}, 400, "n > 1"),
        ({"prompt": ["x", "y"]}, 400, "several prompts"),
        ({"prompt": "x", "model": "another"}, 404, "another"),
        ({"prompt": "x", "top_p": "much"}, 400, "top_p"),
    ],
)
def test_errors_are_vllms_own(
    server: VllmServer, agent: AgentThread, body: dict[str, Any], status: int, says: str
) -> None:
    answer = post(agent.url, "completions", body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert server.engine()["sessions"] == 0
