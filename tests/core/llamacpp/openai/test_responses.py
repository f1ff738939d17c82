"""The payloads, read back by the OpenAI SDK's own types."""

from __future__ import annotations

import msgspec
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pipesd_core.llamacpp.openai.responses import Usage, Writer
from pipesd_core.protocol.messages import Endpoint

USAGE = Usage(3, 4)


@pytest.fixture
def chat() -> Writer:
    return Writer.start(Endpoint.CHAT_COMPLETIONS, "m")


@pytest.fixture
def text() -> Writer:
    return Writer.start(Endpoint.COMPLETIONS, "m", include_usage=True)


def test_chat_chunks(chat: Writer) -> None:
    parts = [chat.chunk("a", first=True), chat.chunk("b", first=False)]
    parts.append(chat.chunk("", first=False, finish_reason="stop"))
    chunks = [ChatCompletionChunk.model_validate_json(part, strict=True) for part in parts]
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks} == {
        (chat.id, chat.created, "m", "chat.completion.chunk")
    }
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", None, None]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["a", "b", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "stop"]
    assert b"usage" not in parts[0]


def test_usage_chunk(text: Writer) -> None:
    assert msgspec.json.decode(text.chunk("a", first=True))["usage"] is None
    last = Completion.model_validate_json(text.usage_chunk(USAGE))
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (3, 4, 7)
    details = last.usage.completion_tokens_details
    assert details is not None
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (0, 0)


def test_whole_answers(chat: Writer, text: Writer) -> None:
    answer = ChatCompletion.model_validate_json(chat.whole("hi", "length", USAGE), strict=True)
    assert (answer.object, answer.choices[0].message.role) == ("chat.completion", "assistant")
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hi", "length")
    plain = Completion.model_validate_json(text.whole("hi", "stop", USAGE), strict=True)
    assert (plain.object, plain.choices[0].text, plain.choices[0].finish_reason) == ("text_completion", "hi", "stop")


def test_every_answer_has_its_own_id() -> None:
    assert Writer.start(Endpoint.COMPLETIONS, "m").id != Writer.start(Endpoint.COMPLETIONS, "m").id
