from __future__ import annotations

from typing import Any

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.translation.messages_history import ChatHistory

LAST = {"role": "user", "content": "Go on"}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "é"}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "seen", "is_error": False}


def history(*messages: Any) -> list[dict[str, Any]]:
    taken = ChatHistory()
    taken.take([*messages, LAST])
    assert taken.messages.pop() == LAST
    return taken.messages


def test_texts_and_blocks_of_text() -> None:
    said = {"role": "assistant", "content": "Yes"}
    block = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}, "citations": None}
    assert history({"role": "user", "content": [block]}, said) == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        said,
    ]


def test_calls_and_thoughts_are_of_one_message() -> None:
    thinking = {"type": "thinking", "thinking": "Hm", "signature": "x"}
    text = {"type": "text", "text": "So:"}
    function = {"name": "look", "arguments": '{"at":"é"}'}
    calls = [{"id": "c1", "type": "function", "function": function}]
    assert history({"role": "assistant", "content": [thinking, text, USE]}) == [
        {"role": "assistant", "reasoning_content": "Hm", "tool_calls": calls, "content": [text]}
    ]
    assert history({"role": "assistant", "content": [USE]}) == [
        {"role": "assistant", "tool_calls": calls, "content": None}
    ]


def test_results_are_messages_of_their_own() -> None:
    text = {"type": "text", "text": "And?"}
    empty = {"type": "tool_result", "tool_use_id": "c2"}
    parts = RESULT | {"content": [text]}
    assert history({"role": "user", "content": [RESULT, empty, parts, text]}) == [
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "tool", "tool_call_id": "c1", "content": [text]},
        {"role": "user", "content": [text]},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (4, "messages[0]"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": "y"}, "messages[0].name"),
        ({"role": "user", "content": [4]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image", "source": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 4}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [USE]}, "messages[0].content[0]"),
        ({"role": "user", "content": [RESULT | {"is_error": 1}]}, "messages[0].content[0].is_error"),
        ({"role": "user", "content": [RESULT | {"content": 1}]}, "messages[0].content[0].content"),
        ({"role": "assistant", "content": [{"type": "redacted_thinking", "data": ""}]}, "messages[0].content[0]"),
        ({"role": "assistant", "content": [USE | {"input": "{}"}]}, "messages[0].content[0].input"),
    ],
)
def test_what_is_refused_is_named(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        history(message)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


def test_an_answer_that_is_to_be_gone_on_with_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[1\] is the assistant's, to be gone on with"):
        ChatHistory().take([LAST, {"role": "assistant", "content": "The"}])


def test_names_lead_back_to_the_blocks() -> None:
    taken = ChatHistory()
    taken.instruct([{"type": "text", "text": "Be brief."}])
    text = {"type": "text", "text": "And?"}
    taken.take([{"role": "assistant", "content": [text, USE]}, {"role": "user", "content": [RESULT, text]}])
    names = dict(taken.names)
    assert names["messages[0].content"] == "system"
    assert names["messages[1].content[0]"] == "messages[0].content[0]"
    assert names["messages[1].tool_calls[0]"] == "messages[0].content[1]"
    assert names["messages[2].content"] == "messages[1].content[0].content"
    assert names["messages[3].content[0]"] == "messages[1].content[1]"
