"""`/v1/responses` and `/v1/messages` through an agent: what the gateway alone answers, drafted for like a chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from harness import DRAFT, AgentThread, Process, agent_thread, gateway
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from pipesd_agent.config import AgentConfig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ASKED = "Write some lines of code, and say what they do."
SAMPLING: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "T=0.9": {"temperature": 0.9, "seed": 11}}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CHANGING = ("id", "created_at", "item_id", "pipesd", "timings")


class Answer(BaseModel):
    """A form for answers."""

    language: str
    lines: int


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture(scope="module")
def agent(target: Process) -> Iterator[AgentThread]:
    with agent_thread(AgentConfig(gateway=target.root, draft_model=Path(DRAFT))) as thread:
        yield thread


def body_of(route: str, **more: Any) -> dict[str, Any]:
    if route == "responses":
        return {"input": ASKED, "max_output_tokens": 40} | more
    return {"messages": [{"role": "user", "content": ASKED}], "max_tokens": 40} | more


def same(value: Any) -> Any:
    """A value without what differs between any two answers."""
    if isinstance(value, list):
        return [same(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: same(item) for name, item in value.items() if name not in CHANGING}


def whole(url: str, route: str, **more: Any) -> tuple[dict[str, Any], httpx.Response]:
    response = httpx.post(f"{url}/{route}", json=body_of(route, **more), timeout=120)
    assert response.status_code == 200, response.text
    return response.json(), response


def events(url: str, route: str, **more: Any) -> list[dict[str, Any]]:
    response = httpx.post(f"{url}/{route}", json=body_of(route, stream=True, **more), timeout=120)
    assert response.status_code == 200, response.text
    told = []
    for event in response.text.split("\n\n")[:-1]:
        if not event.startswith(":"):
            name, data = event.split("\n")
            told.append(msgspec.json.decode(data.removeprefix("data: ")))
            assert name == f"event: {told[-1]['type']}"
    return told


def put_together(told: list[dict[str, Any]]) -> Any:
    """What the events come to, whose deltas are cut as the drafts have it."""
    rest: list[Any] = []
    text = ""
    for event in told:
        if event["type"].endswith(("text.delta", "block_delta")):
            delta = event["delta"]
            text += delta if isinstance(delta, str) else delta["text"]
        else:
            rest.append(event | {"sequence_number": 0})
    return text, same(rest)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("route", ["responses", "messages"])
def test_an_answer_is_the_gateways_own(target: Process, agent: AgentThread, route: str, sampling: str) -> None:
    own, _ = whole(target.url, route, **SAMPLING[sampling])
    ours, response = whole(agent.url, route, **SAMPLING[sampling])
    assert same(ours) == same(own)
    assert put_together(events(agent.url, route, **SAMPLING[sampling])) == put_together(
        events(target.url, route, **SAMPLING[sampling])
    )
    record = httpx.get(f"{agent.url}/pipesd/requests/{response.headers['x-request-id']}", timeout=10).json()
    drafts = ours["usage"]["pipesd"]
    assert drafts["accepted"] == sum(drafted for _, drafted in record["tokens"]) > 0
    assert drafts["target_forwards"] < ours["usage"]["output_tokens"]
    assert ours["timings"]["predicted_n"] == ours["usage"]["output_tokens"] == record["output_tokens"]
    if "seed" in SAMPLING[sampling]:
        assert response.headers["x-pipesd-seed"] == "11"


@pytest.mark.parametrize("route", ["responses", "messages"])
def test_it_is_a_chat_in_other_words(target: Process, agent: AgentThread, route: str) -> None:
    chat = {"messages": [{"role": "user", "content": ASKED}], "max_tokens": 40} | SAMPLING["T=0.9"]
    said = httpx.post(f"{target.url}/chat/completions", json=chat, timeout=120).json()["choices"][0]["message"]
    ours, _ = whole(agent.url, route, **SAMPLING["T=0.9"])
    text = ours["content"][0] if route == "messages" else ours["output"][0]["content"][0]
    assert text["text"] == said["content"]


def test_every_event_is_one_of_the_sdk_s(agent: AgentThread) -> None:
    for event in events(agent.url, "responses", temperature=0):
        assert EVENTS.validate_python(event).type == event["type"]
    Response.model_validate(whole(agent.url, "responses")[0])


def test_the_sdk_at_an_agent(target: Process, agent: AgentThread) -> None:
    texts, parsed = [], []
    for url in (target.url, agent.url):
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asked: Any = {"model": "default", "input": ASKED, "temperature": 0, "max_output_tokens": 30}
            answer = client.responses.create(**asked, instructions="Be brief.")
            assert answer.usage is not None
            assert answer.status == "incomplete"
            with client.responses.stream(**asked, instructions="Be brief.") as stream:
                *_, last = stream
            assert last.type == "response.incomplete"
            texts += [answer.output_text, last.response.output_text]
            form = client.responses.parse(
                model="default", input=ASKED, temperature=0, max_output_tokens=200, text_format=Answer
            )
            parsed.append(form.output_parsed)
            with pytest.raises(openai.BadRequestError, match="previous_response_id"):
                client.responses.create(**asked, previous_response_id="resp_1")
            with pytest.raises(openai.BadRequestError, match="max_output_tokens"):
                client.responses.create(**asked | {"max_output_tokens": 10**6})
    assert len(set(texts)) == 1
    assert parsed[0] == parsed[1]
    assert isinstance(parsed[0], Answer)


def test_what_a_message_says_of_its_end_and_its_tokens(agent: AgentThread, target: Process) -> None:
    message, _ = whole(agent.url, "messages", temperature=0)
    assert message["stop_reason"] == "max_tokens"
    word = message["content"][0]["text"].split()[3]
    stopped, _ = whole(agent.url, "messages", temperature=0, stop_sequences=[word])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", word)
    assert message["content"][0]["text"].startswith(stopped["content"][0]["text"])
    for url in (agent.url, target.url):
        body = {"messages": [{"role": "user", "content": ASKED}]}
        counted = httpx.post(f"{url}/messages/count_tokens", json=body, timeout=60)
        assert counted.json() == {"input_tokens": message["usage"]["input_tokens"]}


def test_what_is_refused_is_refused_alike(target: Process, agent: AgentThread) -> None:
    for url in (target.url, agent.url):
        response = httpx.post(f"{url}/responses", json={"input": "Hi", "store": True}, timeout=60)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "store")
        response = httpx.post(f"{url}/messages", json=body_of("messages", thinking={"type": "enabled"}), timeout=60)
        assert (response.status_code, response.json()["type"]) == (400, "error")
        response = httpx.post(f"{url}/embeddings", json={"input": "Hi"}, timeout=60)
        assert response.status_code == 404
        image = {"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}
        response = httpx.post(f"{url}/responses", json={"input": [image]}, timeout=60)
        assert response.json()["error"]["param"] == "input[0].content[0]"
