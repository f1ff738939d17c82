from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.errors import InvalidRequest
from pipesd_core.translation.messages_request import translate
from pipesd_core.translation.translation import Translation

HELLO = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "look", "description": "Looks", "input_schema": {"type": "object"}, "cache_control": {"type": "x"}}
SCHEMA = {"type": "object"}


def request(**body: Any) -> Translation:
    return translate(msgspec.json.encode({"messages": HELLO, "max_tokens": 9} | body))


def chat(**body: Any) -> dict[str, Any]:
    return request(**body).body


def test_a_text_is_a_chat() -> None:
    assert chat() == {"messages": HELLO, "max_tokens": 9}


def test_everything_given() -> None:
    body = chat(
        model="m", system="Be brief.", temperature=0.5, top_p=0.9, top_k=4, stop_sequences=["x"], stream=True, seed=3,
        metadata={"user_id": "u"}, service_tier="auto", thinking={"type": "disabled"}, min_p=0.1,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    assert body == {
        "model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop": ["x"], "stream": True,
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO], "seed": 3, "metadata": {"user_id": "u"},
        "min_p": 0.1, "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_null_means_not_given() -> None:
    assert chat(**dict.fromkeys(("system", "tools", "tool_choice", "thinking", "n", "container"))) == chat()


def test_counting_needs_no_max_tokens() -> None:
    body = msgspec.json.encode({"messages": HELLO})
    assert translate(body, counting=True).body == {"messages": HELLO}
    with pytest.raises(InvalidRequest, match="max_tokens must be an integer, but is missing"):
        translate(body)


@pytest.mark.parametrize(
    ("choice", "theirs"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
        ({"type": "auto", "disable_parallel_tool_use": True}, {"tool_choice": "auto", "parallel_tool_calls": False}),
    ],
)
def test_tools_and_their_choice(choice: Any, theirs: dict[str, Any]) -> None:
    body = chat(tools=[TOOL], tool_choice=choice)
    function = {"name": "look", "description": "Looks", "parameters": {"type": "object"}}
    assert body == chat() | {"tools": [{"type": "function", "function": function}]} | theirs


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"stop": ["x"]}, "stop"),
        ({"n": 2}, "n"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"system": 4}, "system"),
        ({"tools": {}}, "tools"),
        ({"tools": [4]}, "tools[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOL | {"parameters": {"type": "object"}}]}, "tools[0].parameters"),
        ({"tool_choice": {"type": "auto", "name": "look"}}, "tool_choice.name"),
        ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tool_choice": {"type": "auto", "x": 1}}, "tool_choice.x"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
        ({"output_config": {"x": 1}}, "output_config.x"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**body)
    assert caught.value.param == param
    assert param.split(".")[0].split("[")[0] in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("messages", "system", "tools", "tool_choice", "output_config", "thinking")
KEYS = ("text", "content", "tool_use_id", "id", "name", "input", "thinking", "is_error")


@given(
    st.dictionaries(st.sampled_from(NAMES), JSON),
    st.dictionaries(st.sampled_from(KEYS), JSON),
    st.sampled_from(("text", "tool_use", "tool_result", "thinking", "image")),
    st.sampled_from(("user", "assistant")),
)
def test_no_values_raise_anything_else(body: dict[str, Any], block: dict[str, Any], kind: str, role: str) -> None:
    blocks = [{"role": role, "content": [block | {"type": kind}]}, *HELLO]
    for body_ in (body, {"messages": HELLO, "max_tokens": 1} | body, {"messages": blocks, "max_tokens": 1}):
        with contextlib.suppress(InvalidRequest):
            translate(msgspec.json.encode(body_))


def test_an_error_of_the_chat_names_what_the_request_has() -> None:
    translation = request(system="x", tools=[TOOL])
    for theirs, own in (
        ("stop", "stop_sequences"),
        ("messages[0].content", "system.content"),
        ("messages[1].role", "messages[0].role"),
        ("tools[0].function.parameters.x", "tools[0].input_schema.x"),
        ("tools[0].function.name", "tools[0].name"),
        ("max_tokens", "max_tokens"),
    ):
        error = translation.located(InvalidRequest(f"{theirs} is wrong", param=theirs))
        assert (error.param, error.message) == (own, f"{own} is wrong")
