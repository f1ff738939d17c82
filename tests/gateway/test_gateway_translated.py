"""`/v1/responses` and `/v1/messages` of the gateway's own API, over the fake decoder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import openai
import pytest
from fake_decoder import FakeDecoder
from test_gateway_api import assert_openai_error, client_of, running

from pipesd_core.errors import EngineFailed
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

RESPONSE: dict[str, Any] = {"input": "hi", "temperature": 0}
MESSAGE: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "temperature": 0}
ROUTES = [("/v1/responses", RESPONSE), ("/v1/messages", MESSAGE)]


@pytest.fixture
async def decoder() -> FakeDecoder:
    return FakeDecoder(b"abcdef")


@pytest.fixture
async def engine(decoder: FakeDecoder) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine
    await engine.aclose()


@pytest.fixture
async def client(engine: EmbeddedEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(engine) as client:
        yield client


def events_of(text: str) -> list[dict[str, Any]]:
    events = []
    for event in text.split("\n\n")[:-1]:
        if not event.startswith(":"):
            name, data = event.split("\n")
            events.append(msgspec.json.decode(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events


def anthropic_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"type", "error"}
    assert set(body["error"]) == {"type", "message"}
    error: dict[str, Any] = body["error"]
    return error


async def test_a_response(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/responses", json=RESPONSE | {"seed": 5})
    assert answer.headers["x-pipesd-seed"] == "5"
    body = answer.json()
    assert body["output"][0]["content"][0]["text"] == "abcdef"
    chat = await client.post("/v1/chat/completions", json={"messages": MESSAGE["messages"]})
    usage = chat.json()["usage"]
    assert body["usage"]["input_tokens"] == usage["prompt_tokens"]
    assert body["usage"]["output_tokens"] == usage["completion_tokens"]
    streamed = events_of((await client.post("/v1/responses", json=RESPONSE | {"stream": True})).text)
    last = streamed[-1]["response"]
    assert streamed[-1]["type"] == "response.completed"
    for changing in ("id", "created_at", "output"):
        del last[changing], body[changing]
    assert last == body


async def test_a_message(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/messages", json=MESSAGE)).json()
    assert body["content"] == [{"type": "text", "text": "abcdef"}]
    assert (body["stop_reason"], body["model"]) == ("end_turn", "fake")
    events = events_of((await client.post("/v1/messages", json=MESSAGE | {"stream": True})).text)
    assert events[-1] == {"type": "message_stop"}
    assert events[0]["message"]["usage"]["input_tokens"] == body["usage"]["input_tokens"] > 0
    assert events[-2]["usage"] == body["usage"]


@pytest.mark.parametrize("stream", [True, False])
async def test_which_sequence_stops_a_message(client: httpx.AsyncClient, stream: bool) -> None:
    asked = MESSAGE | {"stop_sequences": ["x", "cd", "cde"], "stream": stream}
    answer = await client.post("/v1/messages", json=asked)
    message = events_of(answer.text)[-2]["delta"] if stream else answer.json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "cd")


async def test_a_chat_tells_which_stop_string_it_met_and_no_other_end(client: httpx.AsyncClient) -> None:
    asked = {"messages": MESSAGE["messages"], "stop": ["cd"]}
    (choice,) = (await client.post("/v1/chat/completions", json=asked)).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", "cd")
    (choice,) = (await client.post("/v1/chat/completions", json=asked | {"stop": "x"})).json()["choices"]
    assert "stop_reason" not in choice


async def test_tokens_are_counted_without_an_answer(client: httpx.AsyncClient, decoder: FakeDecoder) -> None:
    asked = {name: MESSAGE[name] for name in ("messages",)} | {"system": "Be brief."}
    counted = (await client.post("/v1/messages/count_tokens", json=asked)).json()
    message = (await client.post("/v1/messages", json=MESSAGE | asked)).json()
    assert counted == {"input_tokens": message["usage"]["input_tokens"]}
    assert decoder.waiting == 0
    assert sum(sequence.at for sequence in decoder.sequences) == len(decoder.answer)
    wrong = await client.post("/v1/messages/count_tokens", json={"messages": [{"role": "user", "content": 4}]})
    assert "messages[0].content must be a text" in anthropic_error(wrong, 400)["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 4}}}}, "text.format.schema"),
        ({"truncation": "auto"}, "truncation"),
        ({"nobody_knows": 1}, "nobody_knows"),
    ],
)
async def test_what_a_response_refuses_has_its_own_names(client: httpx.AsyncClient, body: Any, param: str) -> None:
    for stream in (False, True):
        answer = await client.post("/v1/responses", json=RESPONSE | body | {"stream": stream})
        error = assert_openai_error(answer, 400)
        assert str(error["param"]).startswith(param), error
        assert param.partition("[")[0].partition(".")[0] in error["message"]


async def test_what_a_message_refuses_is_anthropic_s(client: httpx.AsyncClient) -> None:
    error = anthropic_error(await client.post("/v1/messages", json=MESSAGE | {"stop_sequences": [4]}), 400)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("stop_sequences must be")
    assert anthropic_error(await client.post("/v1/messages", json=MESSAGE | {"model": "x"}), 404)["type"] == (
        "not_found_error"
    )
    anthropic_error(await client.get("/v1/messages"), 405)
    anthropic_error(await client.get("/v1/messages/x"), 404)


async def test_unknown_parameters_are_ignored_where_that_is_wanted(decoder: FakeDecoder) -> None:
    engine = EmbeddedEngine(decoder, name="fake", unknown_parameters="ignore")
    async with client_of(engine) as client:
        for path, body in ROUTES:
            answer = await client.post(path, json=body | {"nobody_knows": 1})
            assert (answer.status_code, answer.headers["x-pipesd-ignored"]) == (200, "nobody_knows")
    await engine.aclose()


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_stream_that_breaks_ends_with_an_error(
    path: str, body: dict[str, Any], client: httpx.AsyncClient, decoder: FakeDecoder
) -> None:
    decoder.failure = EngineFailed("the engine broke")
    answer = await client.post(path, json=body | {"stream": True})
    assert answer.status_code == 200
    *_, event = events_of(answer.text)
    assert (event["type"], event["error"]["message"]) == ("error", "the engine broke")


async def test_the_sdk_raises_what_breaks_a_stream(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.failure = EngineFailed("the engine broke")
    async with running(engine) as (_, url), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        stream = await sdk.responses.create(model="fake", input="hi", stream=True)
        with pytest.raises(openai.APIError, match="the engine broke"):
            async for _ in stream:
                pass
