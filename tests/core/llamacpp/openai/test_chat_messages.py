"""Histories with calls and results; what is wrong with a message is named by its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.chat_messages import Message, ToolCall, read_messages

USER = {"role": "user", "content": "How heavy is tea?"}
FUNCTION = {"name": "weigh", "arguments": '{"thing": "tea"}'}
CALL = {"id": "abc", "type": "function", "function": FUNCTION}
ASKS: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "abc", "content": "7 g"}
CALLED = Message("assistant", "", tool_calls=(ToolCall("abc", "weigh", {"thing": "tea"}),))


def test_a_turn_with_calls_and_results() -> None:
    thoughts = {"role": "assistant", "content": "7 g", "reasoning_content": "It said 7 g."}
    assert read_messages([USER, ASKS, RESULT, thoughts]) == (
        Message("user", "How heavy is tea?"),
        CALLED,
        Message("tool", "7 g", tool_call_id="abc"),
        Message("assistant", "7 g", reasoning_content="It said 7 g."),
    )


def test_what_clients_leave_in_their_histories_changes_nothing() -> None:
    left_out = {"role": "assistant", "tool_calls": [CALL]}
    from_a_stream = ASKS | {"tool_calls": [{"index": 0, **CALL}]}
    from_parse = ASKS | {"tool_calls": [CALL | {"function": FUNCTION | {"parsed_arguments": {"thing": "tea"}}}]}
    from_the_sdk = ASKS | {"refusal": None, "annotations": [], "audio": None, "function_call": None}
    without_type = ASKS | {"tool_calls": [{"id": "abc", "function": FUNCTION}]}
    for message in (left_out, from_a_stream, from_parse, from_the_sdk, without_type, ASKS | {"content": ""}):
        assert read_messages([message]) == (CALLED,)
    assert read_messages([{"role": "assistant", "content": "x", "tool_calls": []}]) == (Message("assistant", "x"),)
    none = ASKS | {"tool_calls": [CALL | {"function": {"name": "weigh", "arguments": ""}}]}
    assert read_messages([none])[0].tool_calls[0].arguments == {}
    parts = RESULT | {"content": [{"type": "text", "text": "7"}, {"type": "text", "text": "g"}], "name": "weigh"}
    assert read_messages([parts]) == (Message("tool", "7\ng", name="weigh", tool_call_id="abc"),)


def at(message: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The message with another value at a path; None: without what is there."""
    changed: Any = copy.deepcopy(message)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    result: dict[str, Any] = changed
    return result


@pytest.mark.parametrize(
    ("message", "path", "value", "said"),
    [
        (ASKS, ("tool_calls",), {}, "must be a list of calls, but is {}"),
        (ASKS, ("tool_calls", 0), "x", 'must be an object with id, type and function, but is "x"'),
        (ASKS, ("tool_calls", 0, "id"), None, "must be a string, but is missing"),
        (ASKS, ("tool_calls", 0, "type"), "custom", 'must be function, but is "custom"'),
        (ASKS, ("tool_calls", 0, "index"), "x", "must be an integer"),
        (ASKS, ("tool_calls", 0, "custom"), {}, "is nothing that this server knows"),
        (ASKS, ("tool_calls", 0, "function"), None, "must be an object with name and arguments, but is missing"),
        (ASKS, ("tool_calls", 0, "function", "name"), "", 'must be the name of a function, but is ""'),
        (ASKS, ("tool_calls", 0, "function", "arguments"), "{", 'must be a JSON object in a string, but is "{"'),
        (ASKS, ("tool_calls", 0, "function", "arguments"), "[1]", 'must be a JSON object in a string, but is "[1]"'),
        (ASKS, ("tool_calls", 0, "function", "arguments"), {}, "must be a string, but is {}"),
        (ASKS, ("tool_calls", 0, "function", "output"), 1, "is nothing that this server knows"),
        (ASKS, ("reasoning_content",), 1, "must be a string, but is 1"),
        (ASKS, ("tool_call_id",), "x", "belongs to messages of the role tool, not assistant"),
        (USER, ("tool_calls",), [CALL], "belongs to messages of the role assistant, not user"),
        (USER, ("reasoning_content",), "x", "belongs to messages of the role assistant, not user"),
        (USER, ("function_call",), {}, "is not served here; leave it out"),
        (RESULT, ("tool_call_id",), None, "must be a string: the id of the call with this result, but is missing"),
        (RESULT, ("content",), None, "must be a string or a list of at least one text part, but is null"),
        (RESULT, ("role",), "function", "must be one of system, developer, user, assistant, tool"),
    ],
)
def test_what_is_wrong_is_named(message: dict[str, Any], path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_messages([USER, at(message, path, value)])
    where = "messages[1]" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    assert error.value.param == where
    assert error.value.message.startswith(where)
    assert said in error.value.message


def test_what_is_no_list_of_messages() -> None:
    values: list[Any] = [None, [], {}, "x"]
    for value in values:
        with pytest.raises(InvalidRequest, match="messages must be a list of at least one message"):
            read_messages(value)
