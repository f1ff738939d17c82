"""The parser of calls: each format, cut at every character; what only looks like a call; ids."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_formats import written

from pipesd_core.llamacpp.openai.tool_calls import (
    HERMES,
    ID_CHARS,
    LLAMA3,
    MISTRAL,
    PLAIN,
    CallDelta,
    CallFormat,
    CallParser,
    CallRules,
    call_id,
)

NAMES = ("look_up", "Ünïcode", "f")
Result = tuple[str, list[tuple[str, str]], bool]
"""Content, calls (name, arguments), whether they are whole."""


def joined(parser: CallParser, parts: Iterable[str]) -> Result:
    """What a client has that joins all that it gets."""
    content: list[str] = []
    calls: list[list[str]] = []

    def show() -> None:
        delta = parser.take()
        content.append(delta.content)
        for call in delta.calls:
            if call.name is not None:
                assert call.index == len(calls)
                calls.append([call.name, ""])
            assert call.index == len(calls) - 1, "a call goes on after the next has begun"
            calls[call.index][1] += call.arguments

    for part in parts:
        over = parser.push(part)
        show()
        if over:
            break
    parser.finish()
    show()
    assert parser.held == 0
    return "".join(content), [(name, arguments) for name, arguments in calls], parser.called


def read(form: CallFormat | None, parts: Iterable[str], most: int | None = None) -> Result:
    return joined(CallParser(CallRules(form, NAMES, most)), parts)


def cut(text: str, at: Iterable[int]) -> list[str]:
    places = [0, *sorted({place % (len(text) + 1) for place in at}), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


CASES: list[tuple[CallFormat | None, str, Result]] = [
    (None, '<tool_call>{"name": "f", "arguments": {}}', ('<tool_call>{"name": "f", "arguments": {}}', [], False)),
    (HERMES, "", ("", [], False)),
    (HERMES, " \n", (" \n", [], False)),
    (HERMES, "a < b <tool", ("a < b <tool", [], False)),
    (
        HERMES,
        'Wait.\n<tool_call>\n{"name": "f", "arguments": {"a": "}{\\"<tool_call>"}}\n</tool_call>\n'
        '<tool_call>{"arguments": {"b":[1, {}]}, "name":"look_up"}</tool_call>\n',
        ("Wait.\n", [("f", '{"a": "}{\\"<tool_call>"}'), ("look_up", '{"b":[1, {}]}')], True),
    ),
    (HERMES, '\n\n<tool_call>{"name": "f"}</tool_call>', ("", [("f", "{}")], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool_call> so', (" so", [("f", "{}")], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}} </tool', ("", [("f", "{}")], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}} </to x', (" </to x", [("f", "{}")], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool_call><', ("<", [("f", "{}")], True)),
    (HERMES, '<tool_call>{"name": "\\u0066", "arguments": {}, "id": [1]}</tool_call>', ("", [("f", "{}")], True)),
    # Another function; no name; arguments that are none; text; no JSON; a name that is none: content.
    *(
        (HERMES, text, (text, [], False))
        for text in (
            '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
            '<tool_call>{"arguments": {"a": 1}}</tool_call>',
            '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
            '<tool_call>{name: "f"}</tool_call>',
            '<tool_call>{"name" "f"}</tool_call>',
            '<tool_call>{"name": "\\x", "arguments": {}}</tool_call>',
            "<tool_call>f()</tool_call>",
            '<tool_call>\n{"name": "f", "argu',
            "<tool_call>",
        )
    ),
    # What failed is content; what follows is looked at again.
    (HERMES, '<tool_call><<tool_call>{"name": "f"}</tool_call>', ("<tool_call><", [("f", "{}")], True)),
    # Once a call has begun, what is wrong ends it: nothing can be taken back.
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', ("", [("f", '{"a": 1}')], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a":,}} x', (" x", [("f", '{"a":,}')], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}<x', ("<x", [("f", '{"a": 1}')], True)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "b', ("", [("f", '{"a": "b')], False)),
    (HERMES, '<tool_call>{"name": "f", "arguments": {}', ("", [("f", "{}")], False)),
    (LLAMA3, '{"name": "f", "parameters": {"a": 1}}', ("", [("f", '{"a": 1}')], True)),
    (
        LLAMA3,
        ' {"type": "function", "name": "f", "parameters": {}} ; {"name": "look_up", "arguments": {"b": 2}};',
        ("", [("f", "{}"), ("look_up", '{"b": 2}')], True),
    ),
    (LLAMA3, 'Well.<|python_tag|>{"name": "f", "parameters": {}} done', ("Well. done", [("f", "{}")], True)),
    (LLAMA3, '{"name": "f", "parameters": {}}; and more', ("; and more", [("f", "{}")], True)),
    *(
        (LLAMA3, text, (text, [], False))
        for text in ('{"name": "Bob", "age": 3}', 'Say {"name": "f", "parameters": {}}', "<|python_tag|>f.call(1)", "{")
    ),
    (
        MISTRAL,
        'So[TOOL_CALLS] [{"name": "f", "arguments": {"a": [1]}, "id": "123456789"}, '
        '{"name": "look_up", "arguments": {}}]',
        ("So", [("f", '{"a": [1]}'), ("look_up", "{}")], True),
    ),
    (MISTRAL, '[TOOL_CALLS]{"name": "f", "arguments": {}}', ("", [("f", "{}")], True)),
    (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {}} {"name": "f"', (' {"name": "f"', [("f", "{}")], True)),
    (MISTRAL, "[TOOL_CALLS]f[ARGS]{}", ("[TOOL_CALLS]f[ARGS]{}", [], False)),
    (MISTRAL, '[{"name": "f", "arguments": {}}]', ('[{"name": "f", "arguments": {}}]', [], False)),
    (PLAIN, '{"name": "f", "arguments": {"a": 1}}', ("", [("f", '{"a": 1}')], True)),
    (PLAIN, '[{"name": "f"}, {"name": "f", "arguments": {"x', ("", [("f", "{}"), ("f", '{"x')], False)),
    (PLAIN, '{"name": "lo', ('{"name": "lo', [], False)),
    (PLAIN, 'No {"name": "f", "arguments": {}}', ('No {"name": "f", "arguments": {}}', [], False)),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "expected"), CASES)
def test_content_and_calls_wherever_the_text_is_cut(form: CallFormat | None, text: str, expected: Result) -> None:
    assert read(form, [text]) == expected
    assert read(form, text) == expected
    for place in range(len(text)):
        assert read(form, [text[:place], text[place:]]) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.printable + '{}[]"\\<ü', max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
calls = st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=5), json_values, max_size=4))
blanks = st.sampled_from(["", " ", "\n", "\n\n  "])
indents = st.sampled_from([None, 2])


@given(
    st.sampled_from([HERMES, LLAMA3, MISTRAL, PLAIN]),
    st.sampled_from(["", "Let me see.", "a < b\n", "[TOOL <tool_ "]),
    st.lists(calls, min_size=1, max_size=3),
    blanks,
    indents,
    st.sets(st.integers(0, 10**6), max_size=20),
)
def test_calls_are_found_as_they_were_written(
    form: CallFormat,
    content: str,
    called: list[tuple[str, dict[str, Any]]],
    blank: str,
    indent: int | None,
    places: set[int],
) -> None:
    content = "" if form is PLAIN else content
    text = content + written(form, called, blank, indent)
    shown, found, whole = read(form, cut(text, places))
    assert shown == content
    assert [(name, json.loads(arguments)) for name, arguments in found] == called
    assert whole
    first = read(form, cut(text, places), most=1)
    assert first[1] == found[:1], "the answer ends with its first call"
    assert first[0] == content
    assert first[2]


fragments = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", '{"name": "f", "arguments": {', '"a": 1', "}",
         "{", "[", "]", ", ", ";", '"', "\\", "<", "f", " ", "\n", "ü", '"name"', ":", '"arguments": {}', "}}"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(st.sampled_from([HERMES, LLAMA3, MISTRAL, PLAIN]), fragments, st.sets(st.integers(0, 10**6), max_size=20))
def test_any_text_is_read_the_same_wherever_it_is_cut_and_none_of_it_is_lost(
    form: CallFormat, text: str, places: set[int]
) -> None:
    whole = read(form, [text])
    assert read(form, cut(text, places)) == whole
    assert read(form, text) == whole
    content, found, _ = whole
    if not found:
        assert content == text
    assert is_a_part(content, text)
    for _, arguments in found:
        assert arguments == "{}" or arguments in text


def is_a_part(part: str, text: str) -> bool:
    """Whether `part` is in `text`, perhaps with other text between its characters."""
    rest = iter(text)
    return all(char in rest for char in part)


@given(fragments, fragments)
def test_what_was_shown_is_never_taken_back(before: str, after: str) -> None:
    for form in (HERMES, LLAMA3, MISTRAL, PLAIN):
        parser = CallParser(CallRules(form, NAMES))
        parser.push(before)
        delta, held = parser.take(), parser.held
        content, found, _ = read(form, [before + after])
        assert content.startswith(delta.content)
        assert held <= len(before)
        for call in delta.calls:
            assert found[call.index][1].startswith(call.arguments)


def test_a_call_begins_with_its_name_and_goes_on_with_its_arguments() -> None:
    parser = CallParser(CallRules(HERMES, NAMES))
    parser.push('<tool_call>{"name": "f", "arguments": ')
    assert parser.take().calls == ()
    parser.push("{")
    assert parser.take().calls == (CallDelta(0, "f", "{"),)
    parser.push('"a": ')
    assert parser.take().calls == (CallDelta(0, None, '"a": '),)
    assert not parser.called
    parser.push('1}}</tool_call><tool_call>{"name": "look_up", "arguments": {}}')
    assert parser.take().calls == (CallDelta(0, None, "1}"), CallDelta(1, "look_up", "{}"))
    assert parser.called


def test_a_long_answer_takes_no_longer_a_character() -> None:
    """What is held back is looked at once: with a search after each character this would take minutes."""
    for text in ('<tool_call>{"arguments": {"a": "' + "x" * 300_000, "<tool_call>" * 30_000, "\n" * 300_000):
        assert read(HERMES, text)[0] == text


def test_ids_are_those_of_prompt_seed_and_place() -> None:
    ids = {call_id(prompt, seed, index) for prompt in ((1, 2), (1, 2, 3)) for seed in (5, -6) for index in (0, 1)}
    assert len(ids) == 8
    assert all(len(name) == ID_CHARS and name.isalnum() and name.isascii() for name in ids)
    assert call_id((1, 2), 5, 0) == call_id((1, 2), 5, 0) == "nVCLQb9Ru"
