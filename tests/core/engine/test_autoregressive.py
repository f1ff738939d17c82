from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from fake_decoder import FakeDecoder, FakeSequence

from pipesd_core.engine import autoregressive
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.errors import EngineFailed
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.protocol.messages import Endpoint

BODY = b'{"prompt": "hi", "stream": true, "max_tokens": 3}'


@pytest.fixture
async def decoder() -> FakeDecoder:
    return FakeDecoder(b"abcdef")


@pytest.fixture
async def engine(decoder: FakeDecoder) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine
    await engine.aclose()


async def test_to_the_end(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    answer = TargetOnlyGeneration(engine)
    assert (await answer.open(Endpoint.COMPLETIONS, BODY)).max_tokens == 3
    texts = []
    while (payload := await answer.next()) is not None:
        texts.append(msgspec.json.decode(payload.data)["choices"][0]["text"])
    assert texts == ["a", "b", "c"]
    assert await answer.next() is None
    assert decoder.sequences[0].released


async def test_no_step_is_taken_that_nobody_asked_for(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    answer = TargetOnlyGeneration(engine)
    await answer.open(Endpoint.COMPLETIONS, BODY)
    await answer.next()
    await asyncio.sleep(0.01)
    assert decoder.sequences[0].at == 1
    answer.abort()
    assert decoder.sequences[0].released
    assert await answer.next() is None


async def test_a_broken_generation(engine: EmbeddedEngine, decoder: FakeDecoder) -> None:
    decoder.failure = EngineFailed("boom")
    answer = TargetOnlyGeneration(engine)
    await answer.open(Endpoint.COMPLETIONS, BODY)
    with pytest.raises(EngineFailed, match="boom"):
        await answer.next()
    assert await answer.next() is None


async def test_a_step_that_never_ends(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregressive, "STEP_TIMEOUT_S", 0.02)
    monkeypatch.setattr("fake_decoder.FakeSequence.step", lambda *_: None)
    answer = TargetOnlyGeneration(engine)
    await answer.open(Endpoint.COMPLETIONS, BODY)
    with pytest.raises(EngineFailed, match="did not finish a forward pass"):
        await answer.next()
    answer.abort()


async def test_a_long_prompt_may_take_long_as_long_as_forward_passes_end(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times as long as one forward pass may take."""
    monkeypatch.setattr(autoregressive, "STEP_TIMEOUT_S", 0.2)
    take = FakeSequence.step

    def step(sequence: FakeSequence, drafts: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(1, 11):
            loop.call_later(0.1 * number, sequence.on_working)
        loop.call_later(1.0, take, sequence, drafts)

    monkeypatch.setattr(FakeSequence, "step", step)
    answer = TargetOnlyGeneration(engine)
    await answer.open(Endpoint.COMPLETIONS, BODY)
    assert await answer.next() is not None
    answer.abort()


async def test_out_of_order_calls(engine: EmbeddedEngine) -> None:
    answer = TargetOnlyGeneration(engine)
    with pytest.raises(RuntimeError):
        await answer.next()
    answer.abort()
