"""A generation of a chat in other words, over the fake engine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.fake import FakeEngine, script
from pipesd_core.engine.interface import EngineOutput, Finished, Payload, Queued, StepDone
from pipesd_core.engine.translated import is_translated, prompt_length
from pipesd_core.errors import InvalidRequest
from pipesd_core.protocol.messages import Endpoint

RESPONSE: dict[str, Any] = {"input": "hello"}
MESSAGE: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
ROUTES = [(Endpoint.RESPONSES, RESPONSE), (Endpoint.MESSAGES, MESSAGE)]


def encoded(body: dict[str, Any], **more: Any) -> bytes:
    return msgspec.json.encode(body | more)


async def payloads(endpoint: Endpoint, body: bytes) -> list[Payload]:
    answer = TargetOnlyGeneration(FakeEngine(script([*b"hi"])))
    await answer.open(endpoint, body)
    told = []
    while (payload := await answer.next()) is not None:
        told.append(payload)
    answer.abort()
    return told


@pytest.mark.parametrize(("endpoint", "body"), ROUTES)
async def test_one_payload_has_the_counts(endpoint: Endpoint, body: dict[str, Any]) -> None:
    streamed = await payloads(endpoint, encoded(body, stream=True))
    assert [payload.usage for payload in streamed].count(True) == 1
    assert [payload.upto for payload in streamed] == sorted(payload.upto for payload in streamed)
    assert streamed[-1].upto == 3
    (whole,) = await payloads(endpoint, encoded(body))
    assert (whole.usage, whole.upto) == (True, 3)


async def test_the_first_event_of_a_message_tells_the_prompt_s_tokens() -> None:
    first, *_ = await payloads(Endpoint.MESSAGES, encoded(MESSAGE, stream=True))
    assert msgspec.json.decode(first.data)["message"]["usage"]["input_tokens"] == len("hello")


@pytest.mark.parametrize(("endpoint", "body"), ROUTES)
async def test_steps_and_drafts_are_the_chat_s(endpoint: Endpoint, body: dict[str, Any]) -> None:
    engine = FakeEngine(script([*b"hi"]))
    outputs: list[EngineOutput] = []
    generation = await engine.open(endpoint, encoded(body), outputs.append)
    assert isinstance(outputs[0], Queued)
    generation.step([*b"hx"])
    async with asyncio.timeout(10):
        while len(outputs) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        generation.step(())
        while not isinstance(outputs[-1], Finished):  # noqa: ASYNC110
            await asyncio.sleep(0)
    steps = [output for output in outputs if isinstance(output, StepDone)]
    assert [(step.verified, step.accepted) for step in steps] == [(2, 1), (0, 0)]


async def test_a_refusal_names_what_the_request_has() -> None:
    engine = FakeEngine(script([]))
    with pytest.raises(InvalidRequest) as refused:
        await engine.open(Endpoint.RESPONSES, encoded(RESPONSE, max_output_tokens=0), lambda _: None)
    assert refused.value.param == "max_output_tokens"


def test_which_endpoints() -> None:
    assert [endpoint for endpoint in Endpoint if is_translated(endpoint)] == [Endpoint.RESPONSES, Endpoint.MESSAGES]


async def test_counting_takes_nothing_of_the_engine() -> None:
    engine = FakeEngine(script([]), max_running=1)
    body = encoded({"messages": MESSAGE["messages"]})
    async with asyncio.timeout(10):
        for _ in range(3):
            assert await prompt_length(engine, body) == len("hello")
        held = await engine.open(Endpoint.CHAT_COMPLETIONS, body, lambda _: None)
        assert await prompt_length(engine, body) == len("hello"), "also where all slots are taken"
        held.abort()
        await engine.open(Endpoint.CHAT_COMPLETIONS, body, lambda _: None)
    assert engine.queued == 0
    assert len(engine.generations) == 2, "none was begun to be counted"
    with pytest.raises(InvalidRequest, match="messages"):
        await prompt_length(engine, encoded({"messages": [{"role": "user", "content": "\u2028"}]}))


@pytest.mark.parametrize("depth", range(900, 1010, 10))
async def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    """What Python can just read it cannot always write: both depend on how deep the stack is."""
    nested = b"[" * depth + b"]" * depth
    body = b'{"model": "fake", "input": "hi", "metadata": {"a": ' + nested + b"}}"
    engine = FakeEngine(script([]))
    with contextlib.suppress(InvalidRequest):
        (await engine.open(Endpoint.RESPONSES, body, lambda _: None)).abort()
