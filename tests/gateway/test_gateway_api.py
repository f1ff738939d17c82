"""The HTTP side over the fake decoder: by ASGI where that is enough, over a real uvicorn where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fake_decoder import FakeDecoder

from pipesd_core.errors import EngineFailed, Overloaded
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.llamacpp.runtime.generation import EmbeddedGeneration
from pipesd_core.service import http, queued_stream
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.server import Server
from pipesd_core.service.tasks import Tasks
from pipesd_gateway.api import create_app

HELLO: Any = [{"role": "user", "content": "hi"}]
PROMPT = {"prompt": "hi"}


@pytest.fixture
async def decoder() -> FakeDecoder:
    return FakeDecoder(b"abcdef")


@pytest.fixture
async def engine(decoder: FakeDecoder) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine
    await engine.aclose()


@contextlib.asynccontextmanager
async def client_of(engine: EmbeddedEngine, *keys: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(engine, keys=Keys(frozenset(keys))), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.fixture
async def client(engine: EmbeddedEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(engine) as client:
        yield client


@contextlib.asynccontextmanager
async def running(engine: EmbeddedEngine) -> AsyncIterator[tuple[Server, str]]:
    """A real server, and its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    uvicorn = Server(create_app(engine), engine.aclose, log_level="warning")
    task = asyncio.create_task(uvicorn.serve([listener]))
    try:
        async with asyncio.timeout(60):
            while not uvicorn.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        yield uvicorn, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        uvicorn.should_exit = True
        await asyncio.wait_for(task, 60)


def assert_openai_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"]
    return error


async def test_whole_answers(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": HELLO, "seed": -3})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "abcdef"
    assert response.headers["x-pipesd-seed"] == "-3"
    assert response.headers["content-type"] == "application/json"
    response = await client.post("/v1/completions", json=PROMPT | {"max_tokens": 2})
    assert response.json()["choices"][0] == {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length"}
    assert int(response.headers["x-pipesd-seed"]) >= 0


async def test_a_stream_ends_with_done(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", json=PROMPT | {"stream": True, "max_tokens": 2})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert [json.loads(line[6:])["choices"][0]["text"] for line in lines[:-1]] == ["a", "b"]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_stream, "PATIENCE_S", 0.05)
    monkeypatch.setattr(http, "COMMENT_EVERY_S", 0.05)


STREAMED = PROMPT | {"stream": True, "max_tokens": 2}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("asked", "texts"), [({}, ["a", "b"]), ({"seed": -3}, ["a", "b"]), ({"n": 2}, ["a", "a", "b", "b"])]
)
async def test_a_stream_that_waits_for_a_place_has_its_headers_and_comments(
    engine: EmbeddedEngine, decoder: FakeDecoder, asked: dict[str, Any], texts: list[str]
) -> None:
    decoder.full.clear()
    async with (
        running(engine) as (_, url),
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=STREAMED | asked, headers={"x-request-id": "mine"}) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"] == "mine"
        seed = int(response.headers["x-pipesd-seed"])
        assert seed == asked.get("seed", seed)
        events = response.aiter_text()
        assert (await anext(events)).startswith(": queued\n\n")
        assert (await anext(events)).startswith(": keep-alive\n\n")
        assert decoder.waiting == 1
        decoder.full.set()
        rest = [event for event in "".join([part async for part in events]).split("\n\n") if event]
    said = [event.removeprefix("data: ") for event in rest if not event.startswith(": ")]
    assert said.pop() == "[DONE]"
    assert sorted(json.loads(event)["choices"][0]["text"] for event in said) == texts


@pytest.mark.usefixtures("impatient")
async def test_the_seed_that_was_told_is_the_one_that_is_drawn_with(
    engine: EmbeddedEngine, decoder: FakeDecoder
) -> None:
    seeds: list[int] = []

    def answer_to(_prompt: tuple[int, ...], _seed: int) -> tuple[int, ...]:
        seeds.append(_seed)
        return decoder.answer

    decoder.answer_to = answer_to  # type: ignore[method-assign]
    decoder.full.clear()
    async with (
        running(engine) as (_, url),
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=STREAMED) as response,
    ):
        decoder.full.set()
        await response.aread()
    assert seeds == [int(response.headers["x-pipesd-seed"])]


@pytest.mark.usefixtures("impatient")
async def test_what_fails_after_the_headers_is_an_error_event(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.full.clear()
    async with (
        running(engine) as (_, url),
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", "/v1/completions", json=STREAMED) as response,
    ):
        assert response.status_code == 200
        await engine.aclose()
        decoder.full.set()
        text = (await response.aread()).decode()
    events = [event for event in text.split("\n\n") if event]
    assert events[0] == ": queued"
    (last,) = [event.removeprefix("data: ") for event in events if not event.startswith(": ")]
    assert json.loads(last)["error"]["code"] == "unavailable"


@pytest.mark.usefixtures("impatient")
async def test_official_clients_raise_what_fails_after_the_headers(
    engine: EmbeddedEngine, decoder: FakeDecoder
) -> None:
    decoder.full.clear()
    async with running(engine) as (_, url), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        stream = await sdk.completions.create(model="fake", prompt="hi", stream=True)
        await engine.aclose()
        decoder.full.set()
        with pytest.raises(openai.APIError, match="shutting down") as failed:
            async for _ in stream:
                pass
        assert failed.value.code == "unavailable"


async def test_what_fails_before_them_is_a_status(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.full.clear()
    decoder.refusals = [Overloaded("full", retry_after_s=30)]
    async with running(engine) as (_, url), httpx.AsyncClient(base_url=url) as client:
        refused = await client.post("/v1/completions", json=STREAMED)
        assert assert_openai_error(refused, 429)["message"] == "full"
        assert int(refused.headers["retry-after"]) >= 30


@pytest.mark.usefixtures("impatient")
async def test_a_wrong_request_is_a_status_however_long_it_waits_to_be_read(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = engine._prepared

    def slowly(*given: Any) -> Any:
        time.sleep(0.3)
        return prepared(*given)

    monkeypatch.setattr(engine, "_prepared", slowly)
    async with running(engine) as (_, url), httpx.AsyncClient(base_url=url) as client:
        error = assert_openai_error(await client.post("/v1/completions", json=STREAMED | {"nonsense": 1}), 400)
        assert error["param"] == "nonsense"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("with_headers", [True, False])
async def test_a_client_that_leaves_the_queue_is_not_in_it_any_more(
    engine: EmbeddedEngine, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch, with_headers: bool
) -> None:
    if not with_headers:
        monkeypatch.setattr(queued_stream, "PATIENCE_S", 60.0)
    decoder.full.clear()
    async with running(engine) as (_, url), asyncio.timeout(10), httpx.AsyncClient(base_url=url) as client:

        async def ask() -> None:
            async with client.stream("POST", "/v1/completions", json=STREAMED) as response:
                async for _ in response.aiter_raw():
                    break
                seen.set()
                await asyncio.Event().wait()

        seen = asyncio.Event()
        asked = asyncio.create_task(ask())
        while not decoder.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if with_headers:
            await seen.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        while decoder.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        decoder.full.set()
        assert decoder.sequences == []


@pytest.mark.usefixtures("impatient")
async def test_official_clients_do_not_see_the_comments(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.full.clear()
    async with running(engine) as (_, url), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        stream = await sdk.chat.completions.create(model="fake", messages=HELLO, stream=True, max_tokens=3)
        asyncio.get_running_loop().call_later(0.3, decoder.full.set)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "abc"


async def test_models_health_and_info(engine: EmbeddedEngine) -> None:
    async with client_of(engine, "secret") as client:
        assert (await client.get("/health")).json() == {"status": "ok", "load": {}}
        assert_openai_error(await client.get("/v1/models"), 401)
        client.headers["authorization"] = "Bearer secret"
        (model,) = (await client.get("/v1/models")).json()["data"]
        assert (model["id"], model["object"]) == ("fake", "model")
        assert (await client.get("/v1/pipesd/info")).json() == {
            "model": "fake", "fingerprint": "00" * 16, "n_vocab": 258, "max_context": 64, "max_drafts": 8,
            "protocol": "pipesd.v1",
        }  # fmt: skip


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "secret", "Basic secret", "Bearer sécret"])
async def test_a_wrong_key_is_refused(engine: EmbeddedEngine, header: str | None) -> None:
    async with client_of(engine, "secret", "other") as client:
        headers = {} if header is None else {b"authorization": header.encode()}
        for path in ("/v1/chat/completions", "/v1/completions"):
            error = assert_openai_error(await client.post(path, json=PROMPT, headers=headers), 401)
            assert error["code"] == "invalid_api_key"
        assert_openai_error(await client.get("/v1/pipesd/info", headers=headers), 401)


async def test_any_configured_key_will_do(engine: EmbeddedEngine) -> None:
    async with client_of(engine, "secret", "öther") as client:
        for key in ("secret", "öther"):
            response = await client.get("/v1/models", headers={b"authorization": f"bearer {key}".encode("latin-1")})
            assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, None, None),
        (b'{"prompt": "x", "n": 0}', 400, None, "n"),
        (b'{"prompt": "x", "nonsense": 2}', 400, None, "nonsense"),
        (b'{"prompt": "x", "model": "y"}', 404, "model_not_found", "model"),
        (b'{"prompt": "%s"}' % (b"x" * 99), 400, "context_length_exceeded", "prompt"),
    ],
)
async def test_bad_bodies(
    client: httpx.AsyncClient, body: bytes, status: int, code: str | None, param: str | None
) -> None:
    error = assert_openai_error(await client.post("/v1/completions", content=body), status)
    assert (error["code"], error["param"]) == (code, param)


async def test_too_large_a_body(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 100)
    error = assert_openai_error(await client.post("/v1/completions", content=b"x" * 101), 413)
    assert "100" in error["message"]


async def test_too_slow_a_body(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT_S", 0.02)

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(0.2)

    assert_openai_error(await client.post("/v1/completions", content=body()), 408)


async def test_requests_under_way_are_bounded(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_REQUESTS", 2)
    body = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await body.wait()
        yield json.dumps(PROMPT).encode()

    asked = [asyncio.create_task(client.post("/v1/completions", content=slow())) for _ in range(2)]
    await asyncio.sleep(0.05)
    refused = await client.post("/v1/completions", json=PROMPT)
    error = assert_openai_error(refused, 429)
    assert (error["code"], refused.headers["retry-after"]) == ("overloaded", "1")
    assert "2 requests are under way" in error["message"]
    assert (await client.get("/v1/models")).status_code == 200
    body.set()
    assert [response.status_code for response in await asyncio.gather(*asked)] == [200, 200]
    assert (await client.post("/v1/completions", json=PROMPT)).status_code == 200


async def test_unknown_routes_and_methods(client: httpx.AsyncClient) -> None:
    assert "GET /v2/nothing" in assert_openai_error(await client.get("/v2/nothing"), 404)["message"]
    response = await client.get("/v1/completions")
    assert "use POST" in assert_openai_error(response, 405)["message"]
    assert response.headers["allow"] == "POST"


async def test_request_ids(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health", headers={"x-request-id": "mine"})).headers["x-request-id"] == "mine"
    long = await client.get("/health", headers={"x-request-id": "x" * 200})
    assert long.headers["x-request-id"].startswith("req_")


async def test_a_failing_engine(client: httpx.AsyncClient, decoder: FakeDecoder) -> None:
    decoder.failure = EngineFailed("boom")
    assert assert_openai_error(await client.post("/v1/completions", json=PROMPT), 500)["message"] == "boom"
    response = await client.post("/v1/completions", json=PROMPT | {"stream": True})
    assert response.status_code == 200
    assert json.loads(response.text.removeprefix("data: "))["error"]["message"] == "boom"
    assert "[DONE]" not in response.text


async def test_a_bug_is_openai_shaped_too(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(engine, "open", broken)
    async with client_of(engine) as client:
        response = await client.post("/v1/completions", json=PROMPT)
        assert response.status_code == 500
        assert "secret" not in response.text
        assert response.json()["error"]["code"] == "engine_failed"


async def test_the_openai_client_over_a_real_server(engine: EmbeddedEngine) -> None:
    async with running(engine) as (_, url), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as sdk:
        assert [model.id async for model in sdk.models.list()] == ["fake"]
        chunks = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model="fake", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "abcdef"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 7
        whole = await sdk.completions.create(model="fake", prompt="hi", max_tokens=3)
        assert whole.choices[0].text == "abc"
        with pytest.raises(openai.BadRequestError, match="top_logprobs"):
            await sdk.chat.completions.create(model="fake", messages=HELLO, logprobs=True, top_logprobs=21)
        reported = await sdk.chat.completions.create(model="fake", messages=HELLO, logprobs=True, top_logprobs=2)
        assert reported.choices[0].logprobs is not None
        content = reported.choices[0].logprobs.content or []
        assert [entry.token for entry in content] == [*"abcdef", "<s>"]
        assert [entry.bytes for entry in content[:2]] == [[97], [98]]
        assert [entry.token for entry in content[0].top_logprobs] == ["A", "B"]
        with pytest.raises(openai.NotFoundError):
            await sdk.chat.completions.create(model="other", messages=HELLO)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_aborts_its_request(
    engine: EmbeddedEngine, decoder: FakeDecoder, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    never = asyncio.Event()
    monkeypatch.setattr("fake_decoder.FakeSequence.step", lambda *_: never)  # the step never ends
    async with running(engine) as (_, url):
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{url}/v1/completions", json=PROMPT | {"stream": stream}, timeout=0.3)
        async with asyncio.timeout(60):
            while not (decoder.sequences and decoder.sequences[0].released):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_client_that_goes_away_leaves_the_queue(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.full.clear()
    async with running(engine) as (_, url):
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(f"{url}/v1/completions", json=PROMPT, timeout=0.3)
        async with asyncio.timeout(60):
            while decoder.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert decoder.prompts
    assert not decoder.sequences


async def test_stopping_the_server_tells_the_clients(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    never = asyncio.Event()
    monkeypatch.setattr("fake_decoder.FakeSequence.step", lambda *_: never)
    async with running(engine) as (uvicorn, url), openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x") as sdk:
        stream = await sdk.completions.create(model="fake", prompt="hi", stream=True)
        uvicorn.should_exit = True
        with pytest.raises(openai.APIError, match="shutting down"):
            [chunk async for chunk in stream]


async def test_a_decode_thread_that_died_is_named(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    tasks = Tasks()
    tasks.watch("decode thread", lambda: engine.fault)
    transport = httpx.ASGITransport(create_app(engine, tasks=tasks))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.get("/ready")).json() == {"status": "ready"}
        assert "down" not in (await client.get("/health")).json()
        decoder.fault = "MemoryError"
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "down in this program: decode thread (MemoryError); see its log"
        assert (await client.get("/health")).json()["down"] == {"decode thread": "MemoryError"}


async def test_a_step_that_cannot_be_used_ends_its_request(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(engine) as client:
        monkeypatch.setattr(EmbeddedGeneration, "_push", lambda *_: 1 / 0)
        async with asyncio.timeout(10):
            answer = await client.post("/v1/completions", json=PROMPT)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "internal error; see the server's log"
    assert "the result of a step could not be used" in caplog.text
