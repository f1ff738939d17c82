from __future__ import annotations

from typing import Any

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.translation.responses_input import InputMessages

CALL = {
    "type": "function_call",
    "call_id": "c1",
    "name": "look",
    "arguments": "{}",
    "id": "fc_1",
    "status": "completed",
}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "seen"}


def messages(*items: Any) -> list[dict[str, Any]]:
    taken = InputMessages()
    taken.take(list(items))
    return taken.messages


def called(*ids: str) -> list[dict[str, Any]]:
    return [{"id": each, "type": "function", "function": {"name": "look", "arguments": "{}"}} for each in ids]


def test_messages_of_all_roles() -> None:
    assert messages(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "phase": None,
            "content": [{"type": "output_text", "text": "Yes", "annotations": [], "logprobs": []}],
        },
    ) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ]


def test_calls_belong_to_the_message_before_them() -> None:
    said = {"role": "assistant", "content": "So:"}
    assert messages(said, CALL, CALL | {"call_id": "c2"}, OUTPUT) == [
        said | {"tool_calls": called("c1", "c2")},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
    ]
    user = {"role": "user", "content": "Look"}
    assert messages(user, CALL, OUTPUT, CALL) == [
        user,
        {"role": "assistant", "content": None, "tool_calls": called("c1")},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "assistant", "content": None, "tool_calls": called("c1")},
    ]


def test_outputs_of_parts() -> None:
    output = OUTPUT | {"output": [{"type": "input_text", "text": "seen"}]}
    assert messages(CALL, output)[1]["content"] == [{"type": "text", "text": "seen"}]


def test_thoughts_belong_to_what_follows() -> None:
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert messages({"role": "user", "content": "Hi"}, thoughts, {"role": "assistant", "content": "Yes"})[1] == {
        "role": "assistant",
        "content": "Yes",
        "reasoning_content": "Hm",
    }
    first, second = messages(thoughts, CALL, thoughts, CALL | {"call_id": "c2"})
    assert first == {"role": "assistant", "content": None, "reasoning_content": "Hm", "tool_calls": called("c1")}
    assert second["tool_calls"] == called("c2")


def test_what_is_no_text_goes_on_with_its_type() -> None:
    (message,) = messages({"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]})
    assert message["content"] == [{"type": "input_image"}]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (4, "input[0]"),
        ({"type": "item_reference", "id": "msg_1"}, "input[0]"),
        ({"type": "web_search_call"}, "input[0]"),
        ({"role": "user", "content": "Hi", "name": "x"}, "input[0].name"),
        ({"role": "user", "content": [4]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_text", "text": "x", "y": 1}]}, "input[0].content[0].y"),
        (CALL | {"call_id": None}, "input[0].call_id"),
        (CALL | {"arguments": {}}, "input[0].arguments"),
        (CALL | {"namespace": "x"}, "input[0].namespace"),
        (OUTPUT | {"output": None}, "input[0].output"),
        ({"type": "reasoning", "encrypted_content": "x"}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, "input[0].summary"),
        ({"type": "reasoning", "content": "x"}, "input[0].content"),
        ({"type": "reasoning", "content": [{"type": "input_image"}]}, "input[0].content[0].type"),
        ({"type": "reasoning", "content": [{"type": "reasoning_text", "text": 5}]}, "input[0].content[0].text"),
        ({"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]}, "input[0]"),
    ],
)
def test_what_is_refused_is_named(item: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages(item)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


def test_thoughts_before_somebody_else_are_refused() -> None:
    thoughts = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]}
    with pytest.raises(InvalidRequest) as caught:
        messages(thoughts, {"role": "user", "content": "Hi"})
    assert caught.value.param == "input[1]"


def test_names_lead_back_to_the_items() -> None:
    taken = InputMessages()
    taken.instruct("Be brief.")
    taken.take([{"role": "user", "content": "Look"}, CALL, OUTPUT])
    assert dict(taken.names) == {
        "messages": "input",
        "messages[0]": "instructions",
        "messages[1]": "input[0]",
        "messages[2]": "input[1]",
        "messages[2].tool_calls[0]": "input[1]",
        "messages[3]": "input[2]",
        "messages[3].content": "input[2].output",
    }
