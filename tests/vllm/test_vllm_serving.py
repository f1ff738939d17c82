"""vLLM's own features through the agent: the answer equals the one straight from vLLM under the same sampler."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from event_stream import data_of
from harness import DRAFT, MODEL, AgentThread, agent_thread, wait_until
from vllm_server import HEADERS, KEY, NOISE, VllmServer, post

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter

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
    "biases": ("completions", {"logit_bias": {"12": 4, "69": -100, "268": -2.5}, "prompt": PROMPT}),
    "min_p": ("completions", {"min_p": 0.1, "prompt": PROMPT}),
    "biases, min_p, penalties and top_p": (
        "chat/completions",
        {
            "messages": CHAT,
            "logit_bias": {"12": 3, "326": -2},
            "min_p": 0.02,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
            "top_p": 0.95,
        },
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
    "required tool": ("chat/completions", {"messages": CHAT, "tools": [TOOL], "tool_choice": "required"}),
    "tools, none called": ("chat/completions", {"messages": CHAT, "tools": [TOOL], "tool_choice": "auto"}),
}
UNDRAFTABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "n = 2": ("completions", {"prompt": PROMPT, "n": 2, "logprobs": 1}),
    "n = 2, biases": ("completions", {"prompt": PROMPT, "n": 2, "min_p": 0.05, "logit_bias": {"12": 4}}),
    "chat, n = 2": ("chat/completions", {"messages": CHAT, "n": 2}),
    "two prompts": ("completions", {"prompt": [PROMPT, "import os"]}),
    "two lists of ids": ("completions", {"prompt": [[300, 301, 302], [40, 41]], "return_token_ids": True}),
}
"""Served cloud-only."""
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
    *data, last = data_of(response)
    assert last == "[DONE]"
    return [json.loads(event) for event in data]


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
    assert got["usage"].pop("pipesd")["target_forwards"] > 0
    assert got.pop("timings")["predicted_n"] == expected["usage"]["completion_tokens"]
    close(_without_call_ids(got), _without_call_ids(expected))


RESPONSE: dict[str, Any] = {"input": CHAT[0]["content"], "instructions": "Be brief.", "max_output_tokens": 40}
MESSAGE: dict[str, Any] = {"messages": CHAT, "system": "Be brief.", "max_tokens": 40}
ROUTES = {"responses": RESPONSE, "messages": MESSAGE}
DRAWN = (*VARYING, "item_id", "created_at", "sequence_number", "pipesd", "timings")
"""What differs between any two answers of these routes; how many events there are depends on the drafts."""


def named_events(response: httpx.Response) -> list[dict[str, Any]]:
    found = []
    for event in response.text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def told(response: httpx.Response) -> tuple[str, Any]:
    """What the events of a stream come to: the text, and all that comes once."""
    assert response.status_code == 200, response.text
    text, rest = "", []
    for event in named_events(response):
        if event["type"].endswith(("text.delta", "block_delta")):
            delta = event["delta"]
            text += delta if isinstance(delta, str) else delta["text"]
        else:
            rest.append(undrawn(event))
    return text, rest


def undrawn(value: Any) -> Any:
    if isinstance(value, list):
        return [undrawn(item) for item in value]
    return (
        {name: undrawn(item) for name, item in value.items() if name not in DRAWN} if isinstance(value, dict) else value
    )


@pytest.mark.parametrize("route", ROUTES)
def test_responses_and_messages_are_vllms_own(server: VllmServer, agent: AgentThread, route: str) -> None:
    asked = {"model": MODEL} | ROUTES[route] | GREEDY
    direct, ours = post(server.url, route, asked | NOISE), post(agent.url, route, asked)
    assert ours.status_code == 200, ours.text
    assert "x-pipesd-mode" not in ours.headers
    answer = ours.json()
    drafts = answer["usage"]["pipesd"]
    assert drafts["accepted"] > 0
    assert drafts["target_forwards"] < answer["usage"]["output_tokens"] == answer["timings"]["predicted_n"]
    assert undrawn(answer) == undrawn(direct.json())
    streamed = told(post(agent.url, route, asked | {"stream": True}))
    assert streamed == told(post(server.url, route, asked | NOISE | {"stream": True}))
    assert streamed[0]
    record = httpx.get(f"{agent.url}/pipesd/requests/{ours.headers['x-request-id']}", timeout=10).json()
    assert record["counts"]["accepted"] == drafts["accepted"]


def test_a_seed_gives_the_text_that_it_gives_in_a_chat(server: VllmServer, agent: AgentThread) -> None:
    chat = [{"role": "system", "content": "Be brief."}, *CHAT]
    asked = {"messages": chat, "max_tokens": 40} | SEEDED
    text = post(server.url, "chat/completions", asked | NOISE).json()["choices"][0]["message"]["content"]
    for stream in (False, True):
        response = post(agent.url, "responses", {"model": MODEL, "stream": stream} | RESPONSE | SEEDED)
        message = post(agent.url, "messages", {"model": MODEL, "stream": stream} | MESSAGE | SEEDED)
        if stream:
            assert told(response)[0] == told(message)[0] == text
        else:
            assert response.json()["output"][0]["content"][0]["text"] == text
            assert message.json()["content"][0]["text"] == text
        assert response.headers["x-pipesd-seed"] == message.headers["x-pipesd-seed"] == str(SEEDED["seed"])


def test_what_vllm_refuses_of_them_is_told_as_their_clients_know_it(agent: AgentThread) -> None:
    for stream in (False, True):
        refused = post(agent.url, "messages", {"model": MODEL, "messages": CHAT, "stream": stream})
        assert (refused.status_code, refused.json()["type"]) == (400, "error"), refused.text
        assert "max_tokens" in refused.json()["error"]["message"]
        unknown = post(
            agent.url, "responses", RESPONSE | {"model": MODEL, "previous_response_id": "x", "stream": stream}
        )
        assert unknown.status_code == 404, unknown.text
        assert "not found" in unknown.json()["error"]["message"]


def test_routes_that_are_vllms_own(server: VllmServer, agent: AgentThread) -> None:
    roots = [server.url.removesuffix("/v1"), agent.url.removesuffix("/v1")]
    mine = {"authorization": f"Bearer {KEY}"}
    assert len({httpx.get(f"{root}/version", headers=mine, timeout=20).text for root in roots}) == 1
    asked = {"model": MODEL, "prompt": PROMPT}
    tokens = [httpx.post(f"{root}/tokenize", json=asked, headers=mine, timeout=20).json() for root in roots]
    assert tokens[0] == tokens[1]
    counting = {name: value for name, value in MESSAGE.items() if name != "max_tokens"} | {"model": MODEL}
    counts = [post(f"{root}/v1", "messages/count_tokens", counting).json() for root in roots]
    assert counts[0] == counts[1]
    assert counts[0]["input_tokens"] > 0
    backgrounds = [post(f"{root}/v1", "responses", RESPONSE | {"model": MODEL, "background": True}) for root in roots]
    assert len({answer.status_code for answer in backgrounds}) == 1
    assert backgrounds[1].headers["x-pipesd-mode"] == "cloud"
    assert httpx.get(f"{agent.url}/responses/resp_1", timeout=20).status_code == 404


def _without_call_ids(answer: dict[str, Any]) -> dict[str, Any]:
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls") or ():
            call.pop("id", None)
    return answer


@pytest.mark.parametrize("feature", FEATURES)
def test_streamed_answer_is_vllms_own(server: VllmServer, agent: AgentThread, feature: str) -> None:
    path, body = FEATURES[feature]
    asked = {"max_tokens": 40, "stream": True, **body, **SEEDED}
    expected = sum_of(events(post(server.url, path, asked | NOISE)))
    got = sum_of(events(post(agent.url, path, asked)))
    assert got["text"] or got["arguments"]
    close(got, expected)


def sum_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the chunks of a stream add up to, however the answer was cut into them."""
    text, arguments, names, roles, reason = "", "", [], [], None
    logprobs: list[Any] = []
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        delta = choice.get("delta") or {}
        text += choice.get("text") or delta.get("content") or ""
        roles += [delta["role"]] if delta.get("role") else []
        for call in delta.get("tool_calls") or ():
            arguments += call["function"].get("arguments") or ""
            names += [call["function"]["name"]] if call["function"].get("name") else []
        given = choice.get("logprobs") or {}
        of_completions = zip(*(given.get(name, ()) for name in _LOGPROBS), strict=True)
        logprobs += given.get("content") or [list(token) for token in of_completions]
        reason = choice["finish_reason"] or reason
    return {
        "text": text, "arguments": arguments, "names": names, "logprobs": logprobs, "roles": roles, "reason": reason
    }  # fmt: skip


_LOGPROBS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


@pytest.mark.parametrize("case", UNDRAFTABLE)
def test_what_cannot_be_drafted_for_is_vllms_own(server: VllmServer, agent: AgentThread, case: str) -> None:
    path, body = UNDRAFTABLE[case]
    asked = {"max_tokens": 30, **body, **SEEDED}
    direct, ours = post(server.url, path, asked | NOISE), post(agent.url, path, asked)
    assert direct.status_code == 200, direct.text
    assert ours.status_code == 200, ours.text
    assert ours.headers["x-pipesd-mode"] == "cloud"
    close(same(ours.json()), same(direct.json()))
    streamed = choices_of(post(agent.url, path, asked | {"stream": True}))
    assert streamed == {choice["index"]: choice_of(choice) for choice in direct.json()["choices"]}
    assert len(streamed) == 2
    assert server.engine()["sessions"] == 0


def choices_of(response: httpx.Response) -> dict[int, tuple[str, str | None]]:
    """(text, finish_reason) of a streamed answer by choice."""
    reported: dict[int, tuple[str, str | None]] = {}
    for event in events(response):
        for choice in event["choices"]:
            text, reason = choice_of(choice)
            before = reported.get(choice["index"], ("", None))
            reported[choice["index"]] = (before[0] + text, reason or before[1])
    return reported


def choice_of(choice: dict[str, Any]) -> tuple[str, str | None]:
    message = choice.get("message") or choice.get("delta") or choice
    return message.get("text") or message.get("content") or "", choice["finish_reason"]


def test_choices_are_what_sessions_draft(agent: AgentThread) -> None:
    """Choice i of n has seed + i; each of several prompts has the seed."""
    asked = {"prompt": PROMPT, "max_tokens": 30, **SEEDED}
    both = post(agent.url, "completions", asked | {"n": 2}).json()["choices"]
    for i, choice in enumerate(both):
        drafted = post(agent.url, "completions", asked | {"seed": SEEDED["seed"] + i})
        assert "x-pipesd-mode" not in drafted.headers
        assert choice_of(drafted.json()["choices"][0]) == choice_of(choice)
    assert both[0]["text"] != both[1]["text"]
    prompts = [PROMPT, "import os"]
    for prompt, choice in zip(
        prompts, post(agent.url, "completions", asked | {"prompt": prompts}).json()["choices"], strict=True
    ):
        drafted = post(agent.url, "completions", asked | {"prompt": [prompt]})
        assert choice_of(drafted.json()["choices"][0]) == choice_of(choice)


def test_a_client_that_leaves_ends_what_was_not_drafted_for(server: VllmServer, agent: AgentThread) -> None:
    asked = {"model": MODEL, "prompt": PROMPT, "n": 16, "max_tokens": 900, "ignore_eos": True, "stream": True}
    before = written(server)
    with httpx.stream("POST", f"{agent.url}/completions", json=asked, timeout=60) as response:
        events = data_of(response)
        for _ in range(20):
            assert "error" not in next(events)
    wait_until(lambda: _rests(server))
    assert 10 <= written(server) - before < 16 * 900, "it was written to its end"


def _rests(server: VllmServer) -> bool:
    before = written(server)
    time.sleep(0.5)
    return written(server) == before


def written(server: VllmServer) -> float:
    """Tokens, of all requests so far."""
    lines = httpx.get(f"{server.root}/metrics", timeout=30).text.split("\n")
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total"))


def test_beam_search_is_vllms_own(server: VllmServer, agent: AgentThread) -> None:
    asked = {"prompt": PROMPT, "use_beam_search": True, "n": 2, "temperature": 0, "max_tokens": 12}
    direct, ours = (post(url, "completions", asked) for url in (server.url, agent.url))
    assert direct.status_code == 200, direct.text
    assert len({choice["text"] for choice in ours.json()["choices"]}) == 2
    close(same(ours.json()), same(direct.json()))


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"prompt": "x", "min_p": 2}, 400, "min_p"),
        ({"prompt": "x", "logit_bias": {"5000": 1}}, 400, "logit_bias"),
        ({"prompt": "x", "temperature": -1}, 400, "temperature"),
        ({"prompt": "x", "max_tokens": 5000}, 400, "5000"),
        ({"prompt": "x", "n": 2, "temperature": 0}, 400, "greedy"),
        ({"prompt": "x", "n": 2, "min_p": 2}, 400, "min_p"),
        ({"prompt": "x", "n": 2, "vllm_xargs": 1}, 400, "vllm_xargs"),
        ({"prompt_embeds": "AAAA"}, 400, "embed"),
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


def test_scores_of_given_tokens_are_refused_and_nobody_elses_request_is_hurt(server: VllmServer) -> None:
    """In a step with drafts V2 has none, and on V1 such a request would end the engine."""
    scored = {"query": "Is it blue? ", "items": ["yes", "no"], "label_token_ids": [300, 301]}
    answer = httpx.post(f"{server.root}/generative_scoring", json=scored, headers=HEADERS, timeout=30)
    assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
    assert "label_token_ids" in answer.text
    assert "ask one without the plugin" in answer.text
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 4}
    assert httpx.post(f"{server.url}/completions", json=body, headers=HEADERS, timeout=30).is_success
