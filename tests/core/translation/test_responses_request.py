from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.errors import InvalidRequest
from pipesd_core.translation.responses_request import translate
from pipesd_core.translation.translation import Translation


def request(**body: Any) -> Translation:
    return translate(msgspec.json.encode({"input": "Hi"} | body))


def chat(**body: Any) -> dict[str, Any]:
    return request(**body).body


def refused(**body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        request(**body)
    assert caught.value.param is not None
    return caught.value


def test_a_text_is_a_chat() -> None:
    assert chat() == {"messages": [{"role": "user", "content": "Hi"}]}


def test_everything_given() -> None:
    body = chat(
        model="m", instructions="Be brief.", max_output_tokens=9, temperature=0, top_p=0.5, stream=True, seed=3,
        parallel_tool_calls=False, metadata={"a": "b"}, user="u", min_p=0.1, store=False, truncation="disabled",
        reasoning={"effort": "none", "summary": "auto"}, text={"verbosity": "medium"}, background=False,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"], top_logprobs=2, stop=["x"],
        stream_options={"include_obfuscation": False}, max_tool_calls=4,
    )  # fmt: skip
    assert body == {
        "model": "m", "max_completion_tokens": 9, "temperature": 0, "top_p": 0.5, "stream": True, "seed": 3,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "parallel_tool_calls": False, "metadata": {"a": "b"}, "user": "u", "min_p": 0.1, "reasoning_effort": "none",
        "verbosity": "medium", "logprobs": True, "top_logprobs": 2, "stop": ["x"],
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def test_null_means_not_given() -> None:
    assert chat(**dict.fromkeys(("instructions", "tools", "store", "text", "include", "conversation", "n"))) == chat()


SCHEMA = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("text", "response_format"),
    [
        ({"format": {"type": "text"}}, {"type": "text"}),
        ({"format": {"type": "json_object"}}, {"type": "json_object"}),
        (
            {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True, "description": None}},
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        ),
    ],
)
def test_formats(text: Any, response_format: Any) -> None:
    assert chat(text=text)["response_format"] == response_format


TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


def test_tools_and_their_choice() -> None:
    body = chat(tools=[TOOL | {"defer_loading": False}], tool_choice={"type": "function", "name": "look"})
    named = {"type": "function", "function": {"name": "look"}}
    assert body["tools"] == [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}
    ]
    assert body["tool_choice"] == named
    assert chat(tools=[TOOL], tool_choice="required")["tool_choice"] == "required"
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}
    assert chat(tools=[TOOL], tool_choice=allowed)["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "auto", "tools": [named]},
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"top_logprobs": False}, "top_logprobs"),
        ({"input": 4}, "input"),
        ({"input": []}, "input"),
        ({"instructions": []}, "instructions"),
        ({"text": "json"}, "text"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "text", "x": 1}}}, "text.format.x"),
        ({"text": {"x": 1}}, "text.x"),
        ({"reasoning": {"summary": 1}}, "reasoning.summary"),
        ({"reasoning": {"x": 1}}, "reasoning.x"),
        ({"include": "x"}, "include"),
        ({"include": ["x"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    error = refused(**body)
    assert error.param == param
    assert param.split(".")[0].split("[")[0] in error.message


@given(st.binary(max_size=30))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        translate(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("input", "instructions", "text", "reasoning", "include", "tools", "tool_choice", "stream_options")


@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.sampled_from(("message", "function_call", "reasoning", "x")))
def test_no_values_raise_anything_else(body: dict[str, Any], kind: str) -> None:
    for body_ in (body, {"input": [body | {"type": kind}]}, {"input": "Hi"} | body):
        with contextlib.suppress(InvalidRequest):
            translate(msgspec.json.encode(body_))


def test_an_error_of_the_chat_names_what_the_request_has() -> None:
    translation = request(input=[{"role": "user", "content": "Hi"}], instructions="x", tools=[TOOL])
    for theirs, own in (
        ("max_completion_tokens", "max_output_tokens"),
        ("messages[0].content", "instructions.content"),
        ("messages[1].content[0]", "input[0].content[0]"),
        ("tools[0].function.parameters.x", "tools[0].parameters.x"),
        ("temperature", "temperature"),
    ):
        error = translation.located(InvalidRequest(f"{theirs} is wrong", param=theirs))
        assert (error.param, error.message) == (own, f"{own} is wrong")
