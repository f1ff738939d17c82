from __future__ import annotations

from typing import Any

import msgspec
import pytest
from chat_chunks import Answer, Call, Cut, answers, cuts
from hypothesis import given

from pipesd_core.translation.messages_events import MessagesAnswer

PROMPT = 7


def stream(answer: Answer, cut: Cut) -> list[dict[str, Any]]:
    translator = MessagesAnswer(PROMPT)
    return [event for chunk in answer.chunks(cut) for event in translator.take(chunk)]


def whole(answer: Answer) -> dict[str, Any]:
    (message,) = MessagesAnswer(PROMPT).take(answer.whole())
    return message


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream, by the grammar that Anthropic publishes."""
    first, *rest = events
    assert first["type"] == "message_start"
    assert rest.pop()["type"] == "message_stop"
    message: dict[str, Any] = dict(first["message"])
    last = rest.pop()
    assert last["type"] == "message_delta"
    content: list[dict[str, Any]] = message["content"]
    arguments = ""
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(content)
                content.append(dict(event["content_block"]))
                arguments = ""
            case "content_block_delta":
                assert event["index"] == len(content) - 1
                delta, block = event["delta"], content[-1]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "input_json_delta":
                        arguments += delta["partial_json"]
            case "content_block_stop":
                assert event["index"] == len(content) - 1
                if content[-1]["type"] == "tool_use":
                    content[-1]["input"] = msgspec.json.decode(arguments or "{}")
            case kind:
                raise AssertionError(kind)
    message |= last["delta"]
    message["usage"] |= last["usage"]
    return message


@given(answers, cuts)
def test_a_stream_puts_the_whole_message_together_however_it_is_cut(answer: Answer, cut: Cut) -> None:
    assert put_together(stream(answer, cut)) == whole(answer)


def test_a_text_is_told_in_this_order() -> None:
    events = stream(Answer("Hi there"), Cut([4]))
    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    usage = {"input_tokens": PROMPT, "output_tokens": 0}
    assert events[0]["message"] == {
        "id": "msg_0a1b", "type": "message", "role": "assistant", "model": "target", "content": [], "usage": usage,
        "stop_reason": None, "stop_sequence": None,
    }  # fmt: skip
    assert events[-2]["usage"] == {"input_tokens": 7, "output_tokens": 5}


@pytest.mark.parametrize(
    ("answer", "reason", "sequence"),
    [
        (Answer("Hi"), "end_turn", None),
        (Answer("Hi", finish="length", stop="x"), "max_tokens", None),
        (Answer("Hi", stop="END"), "stop_sequence", "END"),
        (Answer("", (Call("go", "{}"),), finish="tool_calls"), "tool_use", None),
        (Answer("", (Call("go", "{}"),)), "tool_use", None),
    ],
)
def test_why_it_ends(answer: Answer, reason: str, sequence: str | None) -> None:
    message = whole(answer)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    assert put_together(stream(answer, Cut([3]))) == message


def test_calls_are_blocks_with_their_input() -> None:
    text, call = whole(Answer("So:", (Call("go", '{"to":"B"}'),)))["content"]
    assert text == {"type": "text", "text": "So:"}
    assert call == {"type": "tool_use", "id": "call_0", "name": "go", "input": {"to": "B"}}


def test_arguments_that_were_cut_off_are_none() -> None:
    (call,) = whole(Answer("", (Call("go", '{"to":"'),), finish="length"))["content"]
    assert call["input"] == {}


def test_an_answer_without_text_has_a_block() -> None:
    assert whole(Answer())["content"] == [{"type": "text", "text": ""}]
