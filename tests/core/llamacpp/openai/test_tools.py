"""Tools, choices among them, and their refusals by place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from constraints import takes

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.fields import Fields
from pipesd_core.llamacpp.openai.tool_calls import PLAIN, CallParser, CallRules
from pipesd_core.llamacpp.openai.tools import MAX_FORCED_CALLS, MAX_NAME_CHARS, MAX_TOOLS, Tool, Tools, take_tools

SCHEMA = {"type": "object", "properties": {"thing": {"type": "string"}}}
FUNCTION: dict[str, Any] = {"name": "weigh", "description": "Weighs.", "parameters": SCHEMA, "strict": True}
WEIGH = {"type": "function", "function": FUNCTION}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = (Tool("weigh", "Weighs.", SCHEMA), Tool("clock", None, {"type": "object", "properties": {}}))


def take(**body: Any) -> Tools | None:
    fields = Fields(body)
    tools = take_tools(fields)
    assert fields.rest() == {}
    return tools


def test_choices() -> None:
    both = [WEIGH, CLOCK]
    assert take(tools=both) == take(tools=both, tool_choice="auto") == Tools(TOOLS, TOOLS)
    assert take(tools=both, tool_choice="required") == Tools(TOOLS, TOOLS, "required")
    assert take(tools=both, parallel_tool_calls=False) == Tools(TOOLS, TOOLS, parallel=False)
    named = {"type": "function", "function": {"name": "clock"}}
    assert take(tools=both, tool_choice=named) == Tools(TOOLS, TOOLS[1:], "required", parallel=False)
    assert take(tools=both, tool_choice="none") is None


def test_nothing_to_call() -> None:
    assert take() is None
    assert take(tools=[], tool_choice="auto", parallel_tool_calls=True) is None
    assert take(tools=None, tool_choice="none") is None


def test_a_tool_is_told_to_the_template_as_openai_writes_it() -> None:
    assert TOOLS[0].to_json() == {
        "type": "function",
        "function": {"name": "weigh", "description": "Weighs.", "parameters": SCHEMA},
    }
    assert "description" not in TOOLS[1].to_json()["function"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"tools": {}}, "tools", "must be a list of tools, but is {}"),
        ({"tools": [WEIGH] * (MAX_TOOLS + 1)}, "tools", "may hold 128 tools, but holds 129"),
        ({"tools": [1]}, "tools[0]", "must be an object with type and function, but is 1"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", 'but is "custom"'),
        ({"tools": [{"function": FUNCTION}]}, "tools[0].type", "but is missing"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "but is missing"),
        ({"tools": [WEIGH | {"x": 1}]}, "tools[0].x", "is nothing that this server knows"),
        ({"tools": [CLOCK, WEIGH, CLOCK]}, "tools[2].function.name", 'is "clock", as tools[0]\'s is'),
        ({"tool_choice": "required"}, "tool_choice", 'is "required", but there are no tools'),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "no tools"),
        ({"tools": [WEIGH], "tool_choice": "any"}, "tool_choice", 'but is "any"'),
        ({"tools": [WEIGH], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", 'but is "allowed_tools"'),
        ({"tools": [WEIGH], "tool_choice": {"type": "function"}}, "tool_choice.function", "but is missing"),
        (
            {"tools": [WEIGH], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
            'names the function "x", but tools has none of that name',
        ),
        (
            {"tools": [WEIGH], "tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "missing",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}, "y": 1}}, "tool_choice.y", "is nothing that"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", 'must be true or false, but is "no"'),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        take(**body)
    assert error.value.param == param
    assert said in error.value.message


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        ({"name": None}, "name", "a string of 1 to 128 characters, but is missing"),
        ({"name": "x" * (MAX_NAME_CHARS + 1)}, "name", "a string of 1 to 128 characters"),
        ({"name": ""}, "name", 'but is ""'),
        ({"description": 1}, "description", "must be a string, but is 1"),
        ({"strict": "yes"}, "strict", 'must be true or false, but is "yes"'),
        ({"parameters": []}, "parameters", "must be a JSON schema, but is []"),
        (
            {"parameters": {"type": "array"}},
            "parameters.type",
            'must be object, since arguments are one, but is "array"',
        ),
        ({"returns": {}}, "returns", "is nothing that this server knows"),
    ],
)
def test_what_is_wrong_with_a_function_is_named(change: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        take(tools=[CLOCK, {"type": "function", "function": FUNCTION | change}], tool_choice="none")
    assert error.value.param == f"tools[1].function.{place}"
    assert error.value.message.startswith(error.value.param)
    assert said in error.value.message


NUMBERS = {
    "type": "function",
    "function": {
        "name": 'a "b" ü\\',
        "parameters": {
            "properties": {"n": {"$ref": "#/$defs/digit"}},
            "required": ["n"],
            "additionalProperties": False,
            "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
        },
    },
}
BOTH = [NUMBERS, {"type": "function", "function": {"name": "weigh", "parameters": SCHEMA | {"required": ["thing"]}}}]


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def forced(**body: Any) -> Grammar:
    tools = take(**({"tools": BOTH, "tool_choice": "required"} | body))
    assert tools is not None
    grammar = tools.grammar()
    assert grammar is not None
    return grammar


ONE, OTHER = call('a "b" ü\\', n=7), call("weigh", thing="ü")
WRONG = [call('a "b" ü\\', n=10), call('a "b" ü\\'), call("weigh", thing=1), call("x"), "{}", "", "[]", f"{ONE}{OTHER}"]


def test_a_required_answer_is_one_call_or_a_list_of_them() -> None:
    grammar = forced()
    for text in (ONE, OTHER, f"[{ONE}]", f"[{OTHER}, {ONE}, {ONE}]", "[" + ", ".join([ONE] * MAX_FORCED_CALLS) + "]"):
        assert takes(grammar, text), text
        parser = CallParser(CallRules(PLAIN, ('a "b" ü\\', "weigh")))
        parser.push(text)
        delta = parser.take()
        assert parser.called
        assert delta.content == ""
        assert len(delta.calls) == text.count('"name"')
    for text in (*WRONG, f"[{ONE},{OTHER}]", "[" + ", ".join([ONE] * (MAX_FORCED_CALLS + 1)) + "]"):
        assert not takes(grammar, text), text


def test_arguments_are_an_object_whatever_the_schema_says() -> None:
    grammar = forced(tools=[{"type": "function", "function": {"name": "f", "parameters": {"title": "x"}}}])
    assert takes(grammar, '{"name": "f", "arguments": {}}')
    for value in ("1", "null", "[]", '"x"'):
        assert not takes(grammar, f'{{"name": "f", "arguments": {value}}}')


def test_without_parallel_calls_it_is_one_call() -> None:
    grammar = forced(parallel_tool_calls=False)
    assert takes(grammar, ONE)
    assert takes(grammar, OTHER)
    assert not takes(grammar, f"[{ONE}]")


def test_a_named_function_is_called_once_and_no_other() -> None:
    for parallel in (None, True, False):
        choice = {"type": "function", "function": {"name": "weigh"}}
        grammar = forced(tool_choice=choice, parallel_tool_calls=parallel)
        assert takes(grammar, OTHER)
        for text in (ONE, f"[{OTHER}]", *WRONG):
            assert not takes(grammar, text), text


def test_what_an_answer_may_but_need_not_call_is_not_forced() -> None:
    unheld = [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]
    tools = take(tools=unheld)
    assert tools is not None
    assert tools.grammar() is None


def test_a_schema_that_could_not_be_held_to_is_named_where_it_would_have_to_be() -> None:
    unheld = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}
    with pytest.raises(InvalidRequest) as error:
        forced(tools=[CLOCK, unheld])
    assert error.value.param == "tools[1].function.parameters.properties.a.not"
    other = {"type": "function", "function": {"name": "clock"}}
    assert takes(forced(tools=[CLOCK, unheld], tool_choice=other), call("clock"))


def test_hints_within_a_tool_change_nothing() -> None:
    assert take(tools=[WEIGH | {"cache_control": {"type": "ephemeral"}}]) == take(tools=[WEIGH])
