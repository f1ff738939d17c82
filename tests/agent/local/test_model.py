"""The draft model alone, over an engine that writes a given answer, byte by byte."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_decoder import EOS, FakeDecoder
from fake_gateway import verdict
from msgspec.structs import replace

from bench.fixed_policies import fixed
from pipesd_agent.control.triggers import DualSettings
from pipesd_agent.local.answer import LocalAnswer
from pipesd_agent.local.model import CannotContinue, LocalModel, drop_fields
from pipesd_agent.session.session import EdgeSession
from pipesd_agent.session.settings import SessionSettings
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.session.usage import drafts
from pipesd_core.errors import ApiError, InvalidRequest, ModelLoadError, Unavailable
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.protocol.messages import VERSION, Endpoint, Event, Open, Opened
from pipesd_core.sampling.params import SamplingParams

TEXT = b"abcdefgh"
"""What the draft model writes, whatever it is asked."""


class Maker:
    """Makes engines, and counts them."""

    def __init__(self) -> None:
        self.decoders: list[FakeDecoder] = []
        self.failure: Exception | None = None

    def __call__(self) -> EmbeddedEngine:
        if self.failure is not None:
            raise self.failure
        self.decoders.append(FakeDecoder(TEXT))
        return EmbeddedEngine(self.decoders[-1], name="draft")


@asynccontextmanager
async def edge(idle_s: float | None = 60.0) -> AsyncIterator[tuple[LocalModel, Maker]]:
    maker = Maker()
    edge = LocalModel(maker, idle_s=idle_s)
    yield edge, maker
    await edge.aclose()
    await edge.aclose()
    for decoder in maker.decoders:
        assert decoder.closed
        assert all(sequence.released for sequence in decoder.sequences)


def session(text: bytes = b"", shown: int = 0, *, fingerprint: bytes | None = b"f", **body: Any) -> RequestStream:
    """A request in mid-answer: the target has decided `text`, and the client has been shown so many bytes of it."""
    raw = json.dumps({"prompt": "x", "stream": True, "model": "target", **body}).encode()
    session = EdgeSession(
        Open(3, VERSION, Endpoint.COMPLETIONS, raw, fingerprint),
        fixed(DualSettings(), "immediate")(),
        SessionSettings(grace_s=0),
        max_context=64,
        now=0.0,
    )
    session.next_message(0.0)
    stream = RequestStream("id", session, None, lambda: None)
    stream.receive(
        Opened(3, bytes(16), (1, 2), SamplingParams(temperature=0.0, seed=9), 20, (EOS,), "target", ("gh", "!"))
    )
    if text:
        stream.receive(verdict(3, 1, 2, *text))
    if shown:
        choice = {"index": 0, "text": text[:shown].decode(), "logprobs": None, "finish_reason": None}
        chunk = {"id": "cmpl-target", "created": 5, "model": "target", "choices": [choice]}
        stream.receive(Event(3, 2, 2 + shown, json.dumps(chunk).encode()))
    return stream


async def told(answer: LocalAnswer) -> list[dict[str, Any]]:
    payloads = []
    while (payload := await answer.next_payload()) is not None:
        payloads.append(json.loads(payload))
        answer.taken()
    for _ in range(2):
        answer.finish()
    return payloads


def text_of(payloads: list[dict[str, Any]]) -> str:
    return "".join(choice["text"] for payload in payloads for choice in payload["choices"])


LABEL = {"mode": "edge", "model": "draft", "from_token": 0}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_whole_answer_is_labelled(stream: bool) -> None:
    async with edge() as (alone, _):
        body = json.dumps({"prompt": "hi", "stream": stream, "seed": 4}).encode()
        answer = await alone.start(Endpoint.COMPLETIONS, body, "no cloud")
        assert answer.headers == {"x-pipesd-mode": "edge", "x-pipesd-seed": "4"}
        payloads = await told(answer)
        assert text_of(payloads) == TEXT.decode()
        assert [payload.get("pipesd") for payload in payloads] == [None] * (len(payloads) - 1) + [LABEL]
        assert not any("timings" in payload or "pipesd" in payload.get("usage", {}) for payload in payloads)
        record = answer.record()
        assert record.pop("seconds") >= 0
        labelled = LABEL | {"reason": "no cloud"}
        assert record == {"prompt_tokens": 2, "output_tokens": len(TEXT) + 1, "pipesd": labelled}


@pytest.mark.parametrize("stream", [True, False])
async def test_every_choice_of_several_is_labelled(stream: bool) -> None:
    async with edge() as (alone, _):
        body = json.dumps({"prompt": ["a", "b"], "n": 2, "stream": stream, "max_tokens": 3}).encode()
        answer = await alone.start(Endpoint.COMPLETIONS, body, "x")
        payloads = await told(answer)
        assert text_of(payloads) == "abc" * 4 if not stream else sorted(text_of(payloads)) == sorted("abc" * 4)
        ends = [p for p in payloads if any(choice["finish_reason"] for choice in p["choices"])]
        assert [payload["pipesd"] for payload in ends] == [LABEL] * (4 if stream else 1)
        assert answer.output_tokens == 12


@pytest.mark.parametrize("shown", [0, 1, 3])
async def test_an_answer_goes_on_after_what_the_client_has(shown: int) -> None:
    async with edge() as (alone, maker):
        stream = session(TEXT[:3], shown, stream_options={"include_usage": True})
        answer = await alone.continue_answer(stream.session, "gone")
        payloads = await told(answer)
        assert maker.decoders[0].prompts == [(1, 2)]
        assert TEXT[:shown].decode() + text_of(payloads) == "abcdef"  # then the stop string
        assert payloads[-2]["pipesd"] == {"mode": "edge", "model": "draft", "from_token": 3}
        assert payloads[-1]["usage"]["completion_tokens"] == 8
        assert answer.record()["output_tokens"] == 8
        if shown:
            assert {payload["id"] for payload in payloads} == {"cmpl-target"}


async def test_a_whole_answer_that_the_target_began() -> None:
    async with edge() as (alone, _):
        begun = session(TEXT[:3], stream=False).session
        answer = await alone.continue_answer(begun, "gone")
        (payload,) = await told(answer)
        assert text_of([payload]) == "abcdef"
        assert payload["pipesd"]["from_token"] == 3
        assert payload["usage"]["pipesd"] == drafts(begun.counts), "of the target's part"
        assert "timings" not in payload, "two models took that time"
        assert payload["model"] == "draft"


async def test_what_only_opened_says_is_not_asked_of_the_body() -> None:
    """vLLM takes more than the embedded engine does; what it made of it is in `Opened`."""
    async with edge() as (alone, _):
        stream = session(b"a", stop=["1", "2", "3", "4", "5"], top_k=None, temperature="?")
        answer = await alone.continue_answer(stream.session, "gone")
        assert text_of(await told(answer)) == "abcdef"


async def test_what_the_target_has_left_aside_is_left_aside() -> None:
    async with edge() as (alone, _):
        stream = session(b"a", nonsense=1)
        with pytest.raises(InvalidRequest, match="nonsense"):
            await alone.continue_answer(stream.session, "gone")
        assert stream.session.opened is not None
        stream.session.opened = replace(stream.session.opened, ignored="nonsense")
        answer = await alone.continue_answer(stream.session, "gone")
        assert text_of(await told(answer)) == "abcdef"


async def test_another_text_than_the_clients_is_an_error() -> None:
    """As of a gateway whose tokens read otherwise."""
    async with edge() as (alone, _):
        stream = session(b"xyz", 2)
        answer = await alone.continue_answer(stream.session, "gone")
        assert text_of(await told(answer)) == "zdef"
        stream = session(b"xyz", 2)
        stream.session.delivered._text[:] = ["other"]
        answer = await alone.continue_answer(stream.session, "gone")
        with pytest.raises(Unavailable, match="gone; the draft model cannot go on with the answer: its text is"):
            await answer.next_payload()
        answer.finish()


async def test_what_it_cannot_go_on_with() -> None:
    async with edge() as (alone, maker):
        with pytest.raises(CannotContinue, match="opened cloud-only"):
            await alone.continue_answer(session(b"a", fingerprint=None).session, "gone")
        stream = session(b"a", 1)
        stream.session.delivered.add(b'{"choices": [{"delta": {"tool_calls": [1]}}]}')
        with pytest.raises(CannotContinue, match="more in it than text"):
            await alone.continue_answer(stream.session, "gone")
        assert maker.decoders == []
        with pytest.raises(InvalidRequest, match="min_tokens"):
            await alone.continue_answer(session(b"a", min_tokens=3).session, "gone")
        with pytest.raises(InvalidRequest, match="logprobs"):
            await alone.continue_answer(session(b"a", logprobs=3).session, "gone")


async def test_one_load_serves_all_who_wait_for_it() -> None:
    async with edge() as (alone, maker):
        asked = (alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x") for _ in range(3))
        for answer in await asyncio.gather(*asked):
            answer.finish()
        assert len(maker.decoders) == 1


@pytest.mark.parametrize("failure", [ModelLoadError("no such file"), MemoryError()])
async def test_a_model_that_does_not_load_is_an_error_each_time(failure: Exception) -> None:
    async with edge() as (alone, maker):
        maker.failure = failure
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"cannot be loaded: (no such file|not enough memory)"):
                await alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x")
        maker.failure = None
        (await alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x")).finish()
        assert len(maker.decoders) == 1


async def test_a_model_that_broke_is_loaded_again_by_the_next_request(caplog: pytest.LogCaptureFixture) -> None:
    async with edge(idle_s=None) as (alone, maker):
        body = b'{"prompt": "x"}'
        (await alone.start(Endpoint.COMPLETIONS, body, "x")).finish()
        maker.decoders[0].fault = "MemoryError"
        (await alone.start(Endpoint.COMPLETIONS, body, "x")).finish()
        assert [decoder.closed for decoder in maker.decoders] == [True, False]
    assert "local model: loaded again, since it broke: MemoryError" in caplog.text


async def test_memory_is_freed_when_idle_and_not_before() -> None:
    async with edge(idle_s=0.3) as (alone, maker):
        body = b'{"prompt": "x"}'
        first = await alone.start(Endpoint.COMPLETIONS, body, "x")
        await asyncio.sleep(0.45)
        assert [decoder.closed for decoder in maker.decoders] == [False]
        first.finish()
        await asyncio.sleep(0)
        second = await alone.start(Endpoint.COMPLETIONS, body, "x")
        await asyncio.sleep(0.45)
        assert [decoder.closed for decoder in maker.decoders] == [False]
        second.finish()
        await asyncio.sleep(0.45)
        assert [decoder.closed for decoder in maker.decoders] == [True]
        assert alone.listing == []
        (await alone.start(Endpoint.COMPLETIONS, body, "x")).finish()
        assert len(maker.decoders) == 2


async def test_loaded_before_it_is_needed_and_kept() -> None:
    async with edge(idle_s=None) as (alone, maker):
        await asyncio.to_thread(alone.load)
        assert alone.listing == [
            {"id": "draft", "object": "model", "created": 0, "owned_by": "pipesd", "max_model_len": 64}
        ]
        (await alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x")).finish()
        assert len(maker.decoders) == 1


async def test_a_refused_or_cancelled_request_holds_nothing() -> None:
    async with edge(idle_s=0.01) as (alone, maker):
        with pytest.raises(ApiError):
            await alone.start(Endpoint.COMPLETIONS, b"{}", "x")
        maker.decoders[0].full.clear()
        asking = asyncio.create_task(alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x"))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert maker.decoders[0].closed


async def test_closed_while_it_loads() -> None:
    async with edge() as (alone, maker):
        go, make = threading.Event(), alone._make
        alone._make = lambda: make() if go.wait(60) else pytest.fail("nobody let it go on")
        asking = asyncio.create_task(alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x"))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(alone.aclose())
        await asyncio.sleep(0.02)
        assert not closing.done()
        go.set()
        await closing
        with pytest.raises(Unavailable, match="shutting down"):
            (await asking).finish()
        assert maker.decoders[0].closed


async def test_closed_in_mid_answer() -> None:
    async with edge() as (alone, _):
        answer = await alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x", "stream": true}', "x")
        await answer.next_payload()
        await alone.aclose()
        with pytest.raises(Unavailable, match="shutting down"):
            await answer.next_payload()
        answer.finish()
        with pytest.raises(Unavailable, match="shutting down"):
            await alone.start(Endpoint.COMPLETIONS, b'{"prompt": "x"}', "x")


def test_a_body_without_a_field() -> None:
    assert json.loads(drop_fields(b'{"model": "m", "prompt": [1, 2]}', "model")) == {"prompt": [1, 2]}
    for body in (b"[1]", b"{", b"\xff"):
        assert drop_fields(body, "model") == body
