"""What cannot be drafted for, before the embedded engine: its own answer, or refusal, reaches the client as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from answers import ask
from event_stream import data_by_unicode_s_lines, has_the_format_s_lines_only
from harness import MODEL, AgentThread, Process, agent_thread, gateway, openai_error

from pipesd_agent.config import AgentConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

KEY = "the-key"
PROMPT = "def add(a, b):\n"
CHAT = [{"role": "user", "content": "x"}]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "keys").write_text(f"{KEY}\n")
    with gateway(directory, "--api-key-file", str(directory / "keys")) as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process) -> Iterator[AgentThread]:
    with agent_thread(AgentConfig(gateway=target.root, gateway_api_keys=frozenset({KEY}))) as running:
        yield running


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.post(f"{url}/{path}", json={"model": MODEL, "max_tokens": 8, **body}, headers=headers, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": PROMPT, "n": 200}, "n"),
        ("completions", {"prompt": PROMPT, "best_of": 2}, "best_of"),
        ("completions", {"prompt": ["", PROMPT]}, "prompt[0]"),
        ("completions", {"prompt": [[], [1, 2]]}, "prompt[0]"),
        ("completions", {"prompt": PROMPT, "prompt_embeds": "AAAA"}, "prompt_embeds"),
        ("chat/completions", {"messages": CHAT, "use_beam_search": True}, "use_beam_search"),
    ],
)
def test_the_gateways_own_refusal(
    target: Process, agent: AgentThread, path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    direct, ours = (post(url, path, body | {"stream": stream}) for url in (target.url, agent.url))
    assert openai_error(ours, 400)["param"] == param
    assert ours.content == direct.content
    assert ours.headers["x-pipesd-mode"] == "cloud"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0, 1])
def test_several_choices_are_those_of_requests_of_their_own(
    target: Process, agent: AgentThread, temperature: int, stream: bool
) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    asked: dict[str, Any] = {"max_tokens": 24, "temperature": temperature, "logprobs": 1, "presence_penalty": 0.5}
    prompts = [PROMPT, "import os\n", "class Stack:\n"]
    answer = ask(agent.url, stream=stream, headers=headers, prompt=prompts, n=2, seed=40, **asked)
    singles = [ask(agent.url, stream=False, prompt=p, seed=40 + i, **asked) for p in prompts for i in range(2)]
    assert answer.choices == {index: single.choices[0] for index, single in enumerate(singles)}
    assert answer.tokens == sum(single.tokens for single in singles)
    assert answer.usage["prompt_tokens"] == sum(single.usage["prompt_tokens"] for single in singles[::2])
    assert answer.accepted == 0
    direct = ask(target.url, stream=stream, headers=headers, prompt=prompts, n=2, seed=40, **asked)
    assert (direct.choices, direct.usage) == (answer.choices, answer.usage)


def test_choices_of_a_chat_and_the_seed_that_was_drawn(agent: AgentThread) -> None:
    asked = {"messages": CHAT, "n": 5, "max_tokens": 12}
    response = post(agent.url, "chat/completions", asked)
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(5))
    seed = int(response.headers["x-pipesd-seed"])
    one = post(agent.url, "chat/completions", asked | {"n": 1, "seed": seed + 4}).json()["choices"][0]
    assert one["message"] == choices[4]["message"]


def test_a_list_of_one_prompt_is_drafted(target: Process, agent: AgentThread) -> None:
    asked = {"prompt": [PROMPT], "temperature": 0, "n": 1, "best_of": 1}
    direct, ours = (post(url, "completions", asked) for url in (target.url, agent.url))
    assert "x-pipesd-mode" not in ours.headers
    assert ours.headers["x-pipesd-seed"]
    assert ours.json()["choices"] == direct.json()["choices"]
    record = httpx.get(f"{agent.url}/pipesd/requests/{ours.headers['x-request-id']}", timeout=10)
    assert record.json()["output_tokens"] == 8


def test_the_noise_that_agents_ask_for_is_the_engines(target: Process, agent: AgentThread) -> None:
    asked = {"prompt": PROMPT, "temperature": 1.0, "seed": 7}
    noise = {"vllm_xargs": {"pipesd_noise": 1}}
    texts = {
        post(url, "completions", asked | more).json()["choices"][0]["text"]
        for url in (target.url, agent.url)
        for more in ({}, noise)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_a_real_answer_with_line_ends_of_unicode_s(target: Process, agent: AgentThread, n: int, stream: bool) -> None:
    """Drafted for (n = 1), or forwarded, or of the gateway itself: no client finds another line in it, or another text.

    The body comes as PowerShell saves it, with a byte order mark.
    """
    text = "a\u2028b\u0085c\u2029d\u2014"
    schema = {"name": "x", "schema": {"const": text}}
    body = {"model": MODEL, "messages": CHAT, "max_tokens": 64, "n": n, "stream": stream, "seed": 1}
    content = json.dumps(body | {"response_format": {"type": "json_schema", "json_schema": schema}}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    for url in (target.url, agent.url):
        response = httpx.post(f"{url}/chat/completions", content=b"\xef\xbb\xbf" + content, headers=headers, timeout=60)
        assert response.status_code == 200, response.text
        assert has_the_format_s_lines_only(response.text)
        assert (response.headers.get("x-pipesd-mode") == "cloud") == (n > 1 and url == agent.url)
        events = [data for data in data_by_unicode_s_lines(response) if data != "[DONE]"]
        texts = [""] * n
        for choice in (choice for event in events for choice in json.loads(event)["choices"]):
            texts[choice["index"]] += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        assert [json.loads(one) for one in texts] == [text] * n
