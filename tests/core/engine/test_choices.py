"""Several choices in one answer, over a decoder whose text is the prompt and the seed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from fake_decoder import EOS, FakeDecoder

from pipesd_core.engine import choices
from pipesd_core.engine.choices import MAX_CHOICES, MultiChoiceGeneration, split
from pipesd_core.errors import EngineFailed, InvalidRequest, Overloaded
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine
from pipesd_core.openai_body import has_multiple_choices
from pipesd_core.protocol.messages import Endpoint

TEXT, CHAT = Endpoint.COMPLETIONS, Endpoint.CHAT_COMPLETIONS
HELLO = [{"role": "user", "content": "hi"}]


class Seeded(FakeDecoder):
    """Writes prompt and seed: `hi7` for the prompt `hi` and the seed 7."""

    def answer_to(self, prompt: tuple[int, ...], seed: int) -> tuple[int, ...]:
        return (*prompt, *str(seed).encode(), EOS)


@pytest.fixture
async def decoder() -> Seeded:
    return Seeded(b"")


@pytest.fixture
async def engine(decoder: Seeded) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine(decoder, name="fake")
    yield engine
    await engine.aclose()
    assert all(sequence.released for sequence in decoder.sequences)


def encoded(**body: Any) -> bytes:
    return msgspec.json.encode(body)


async def ask(engine: EmbeddedEngine, endpoint: Endpoint = TEXT, **body: Any) -> list[dict[str, Any]]:
    """The payloads of an answer."""
    raw = encoded(**body)
    assert has_multiple_choices(endpoint, raw)
    answer, payloads = MultiChoiceGeneration(engine), []
    try:
        await answer.open(endpoint, raw)
        while (payload := await answer.next()) is not None:
            payloads.append(msgspec.json.decode(payload.data))
    finally:
        answer.abort()
    return payloads


async def test_a_whole_answer(engine: EmbeddedEngine) -> None:
    (answer,) = await ask(engine, prompt="hi", n=3, seed=8)
    assert [choice["text"] for choice in answer["choices"]] == ["hi8", "hi9", "hi10"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["finish_reason"] for choice in answer["choices"]] == ["stop"] * 3
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 4 + 4 + 5, 15)
    assert usage["completion_tokens_details"] == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")


async def test_n_of_each_of_several_prompts(engine: EmbeddedEngine) -> None:
    (answer,) = await ask(engine, prompt=["a", "bcd"], n=2, seed=1, best_of=2)
    assert [choice["text"] for choice in answer["choices"]] == ["a1", "a2", "bcd1", "bcd2"]
    assert answer["usage"]["prompt_tokens"] == 4
    (answer,) = await ask(engine, prompt=[[97], [98, 99]], seed=5)
    assert [choice["text"] for choice in answer["choices"]] == ["a5", "bc5"]


@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream(engine: EmbeddedEngine, usage: bool) -> None:
    payloads = await ask(
        engine, CHAT, messages=HELLO, n=6, seed=0, stream=True, stream_options={"include_usage": usage}
    )
    assert len({(payload["id"], payload["created"]) for payload in payloads}) == 1
    texts: dict[int, str] = {}
    roles: list[int] = []
    ended: set[int] = set()
    for payload in payloads[:-1] if usage else payloads:
        assert ("usage" in payload) == usage
        (choice,) = payload["choices"]
        index = choice["index"]
        assert index not in ended
        texts[index] = texts.get(index, "") + choice["delta"].get("content", "")
        roles += [index] * ("role" in choice["delta"])
        ended |= {index} if choice["finish_reason"] else set()
    assert texts == {index: f"hi{index}" for index in range(6)}
    assert sorted(roles) == sorted(ended) == list(range(6))
    if usage:
        assert payloads[-1]["choices"] == []
        assert payloads[-1]["usage"]["completion_tokens"] == 6 * 4
        assert payloads[-1]["usage"]["prompt_tokens"] == 2


async def test_without_a_seed_every_choice_draws_its_own(engine: EmbeddedEngine) -> None:
    (answer,) = await ask(engine, prompt="x", n=4, max_tokens=60)
    seeds = [int(choice["text"][1:]) for choice in answer["choices"]]
    assert seeds == list(range(seeds[0], seeds[0] + 4))


async def test_only_a_few_hold_places_at_once(engine: EmbeddedEngine, decoder: Seeded) -> None:
    answer = MultiChoiceGeneration(engine)
    await answer.open(TEXT, encoded(prompt="h" * 40, n=20, stream=True, max_tokens=20))
    held = []
    while await answer.next() is not None:
        await asyncio.sleep(0.001)
        held.append(sum(not sequence.released for sequence in decoder.sequences))
    assert len(decoder.sequences) == 20
    assert max(held) == choices.MAX_RUNNING_CHOICES
    answer.abort()


async def test_a_client_that_does_not_read_stops_all(engine: EmbeddedEngine, decoder: Seeded) -> None:
    answer = MultiChoiceGeneration(engine)
    await answer.open(TEXT, encoded(prompt="h" * 40, n=4, stream=True))
    await answer.next()
    await asyncio.sleep(0.05)
    assert sum(sequence.at for sequence in decoder.sequences) <= choices._MAX_WAITING + 2 * choices.MAX_RUNNING_CHOICES
    answer.abort()
    assert all(sequence.released for sequence in decoder.sequences)
    await asyncio.sleep(0)
    assert await answer.next() is None


async def test_an_error_of_one_ends_all(engine: EmbeddedEngine, decoder: Seeded) -> None:
    decoder.failure = EngineFailed("boom")
    with pytest.raises(EngineFailed, match="boom"):
        await ask(engine, prompt="hi", n=3, stream=True)
    await asyncio.sleep(0)


async def test_a_later_choice_waits_for_room(
    engine: EmbeddedEngine, decoder: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "_RETRY_S", 0.01)
    decoder.refusals = [None, Overloaded("full"), Overloaded("full")]
    (answer,) = await ask(engine, prompt="hi", n=2, seed=0)
    assert [choice["text"] for choice in answer["choices"]] == ["hi0", "hi1"]
    monkeypatch.setattr(choices, "OPEN_TIMEOUT_S", 0.0)
    decoder.refusals = [None, Overloaded("full")]
    with pytest.raises(Overloaded):
        await ask(engine, prompt="hi", n=2)
    decoder.refusals = [Overloaded("full")]
    with pytest.raises(Overloaded):
        await ask(engine, prompt="hi", n=2)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "n": MAX_CHOICES + 1}, "n"),
        ({"prompt": ["x"] * 65, "n": 2}, "n"),
        ({"prompt": ["x"] * (MAX_CHOICES + 1)}, "prompt"),
        ({"prompt": ["x", ""]}, "prompt[1]"),
        ({"prompt": [[1], [2, -1]]}, "prompt[1][1]"),
        ({"prompt": [[1], [999]], "n": 2}, "prompt[1]"),
        ({"prompt": ["x", "y"], "best_of": True}, "best_of"),
        ({"prompt": ["x", "y"], "n": 0}, "n"),
        ({"prompt": "x", "n": 2, "best_of": 3}, "best_of"),
        ({"prompt": "x", "n": 2, "seed": "1"}, "seed"),
        ({"prompt": "x", "n": 2, "seed": 2**63 - 1}, "seed"),
        ({"prompt": "x", "n": 2, "temperature": 3}, "temperature"),
    ],
)
async def test_bad_requests(engine: EmbeddedEngine, body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await ask(engine, **body)
    assert error.value.param == param
    assert param in error.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "x", "n": 2, "seed": 1e400}',
        b'{"prompt": "x", "n": 2, "seed": "\xff"}',
        b'{"prompt": ["x", "y"], "seed": "\xff"}',
    ],
)
async def test_what_only_looks_like_json_is_refused(engine: EmbeddedEngine, body: bytes) -> None:
    assert has_multiple_choices(TEXT, body)
    with pytest.raises(InvalidRequest, match="not JSON"):
        await MultiChoiceGeneration(engine).open(TEXT, body)


async def test_whole_numbers_with_a_point_are_whole_numbers(engine: EmbeddedEngine) -> None:
    (answer,) = await ask(engine, prompt="hi", n=2.0, seed=8.0, best_of=2.0)
    assert [choice["text"] for choice in answer["choices"]] == ["hi8", "hi9"]


def test_a_long_body_is_not_held_once_per_choice() -> None:
    requests = split(CHAT, encoded(messages=[{"role": "user", "content": "x" * 2**20}], n=MAX_CHOICES))
    assert len({id(request.fields["messages"]) for request in requests}) == 1
