"""What is refused, and the shape of grammars; what they let through is in `test_grammar`, with llama.cpp."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.json_schema import MAX_REPEATS, grammar_of
from pipesd_core.llamacpp.openai.json_schema_bounds import Node, is_bounded

STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        (None, ""),
        (False, ""),
        ([1], ""),
        ({"type": "strin"}, ".type"),
        ({"type": []}, ".type"),
        ({"type": [["string"]]}, ".type"),
        ({"type": "string", "pattern": "a*"}, ".pattern"),
        ({"type": "string", "format": "date"}, ".format"),
        ({"type": "integer", "minimum": 0}, ".minimum"),
        ({"type": "number", "multipleOf": 2}, ".multipleOf"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
        ({"type": "array", "prefixItems": [STRING]}, ".prefixItems"),
        ({"type": "array", "items": [STRING]}, ".items"),
        ({"type": "array", "minItems": -1}, ".minItems"),
        ({"type": "array", "minItems": True}, ".minItems"),
        ({"type": "array", "maxItems": MAX_REPEATS + 1}, ".maxItems"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, ".maxLength"),
        ({"oneOf": [STRING]}, ".oneOf"),
        ({"not": STRING}, ".not"),
        ({"allOf": [STRING, STRING]}, ".allOf"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [STRING, {"if": True}]}, ".anyOf[1].if"),
        ({"anyOf": [STRING], "type": "string"}, ".type"),
        ({"enum": []}, ""),
        ({"enum": 1}, ".enum"),
        ({"enum": ["a"], "maxLength": 1}, ".maxLength"),
        ({"const": 1, "type": "string"}, ""),
        ({"$ref": "http://x/y"}, ".$ref"),
        ({"$ref": "#/$defs/x"}, ".$ref"),
        ({"$ref": 1}, ".$ref"),
        ({"$ref": "#", "minLength": 1}, ".minLength"),
        ({"type": "object", "properties": []}, ".properties"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, ".required"),
        ({"type": "object", "required": "a"}, ".required"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": STRING}, ".additionalProperties"),
        ({"type": "object", "properties": {"a": {"minimum": 1}}}, ".properties.a.minimum"),
        ({"type": "object", "patternProperties": {}}, ".patternProperties"),
        ({"type": "object", "minProperties": 1}, ".minProperties"),
        ({"$id": "x"}, ".$id"),
        ({"unknown": 1}, ".unknown"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(schema: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        grammar_of(schema, "here")
    assert error.value.param == f"here{param}"
    assert error.value.message.startswith("here")


def test_bounds() -> None:
    nested: dict[str, Any] = STRING
    for _ in range(70):
        nested = {"type": "array", "items": nested}
    many = {"type": "object", "properties": {f"p{i}": {"enum": list(range(100))} for i in range(10)}}
    for schema, match in (
        ({"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 999} for i in range(21)}}, "20000"),
        ({"enum": ["x" * 70_000]}, "65536"), (nested, "64 levels"), (many, "1024 rules"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=match):
            grammar_of(schema, "here")


ARRAY = {"type": "array", "items": {"$ref": "#"}}
OBJECT = {"type": "object", "properties": {"a": {"$ref": "#"}}}
TAGGED = {"type": "object", "properties": {"k": {"const": 1}, "a": {"$ref": "#"}}, "required": ["k"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [ARRAY, ARRAY | {"minItems": 1}]},
        {"anyOf": [{"type": "array"}, ARRAY]},
        {"anyOf": [OBJECT, {"type": "object", "properties": {"b": {"type": "array", "items": {"$ref": "#"}}}}]},
        {"anyOf": [TAGGED, TAGGED]},
        {"anyOf": [{"anyOf": [{"$ref": "#"}, ARRAY]}, ARRAY]},
        {"anyOf": [{"type": "array", "maxItems": i} for i in range(17)]},
    ],
)
def test_what_llama_cpp_would_have_to_read_in_too_many_ways_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="begin alike"):
        grammar_of(schema, "here")


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [ARRAY, OBJECT, {"type": "string"}, {"type": "null"}]},
        {"anyOf": [TAGGED, TAGGED | {"properties": {"k": {"enum": [2, 3]}, "b": ARRAY}}]},
        {"anyOf": [TAGGED, {"type": "object", "properties": {"j": {"const": 1}, "b": ARRAY}, "required": ["j"]}]},
        {"anyOf": [{"type": "array", "maxItems": i} for i in range(16)]},
        {"anyOf": [{"type": "string", "maxLength": i} for i in range(100)]},
        {"type": ["array", "object", "null"], "items": {"$ref": "#"}, "properties": {"a": {"$ref": "#"}}},
    ],
)
def test_what_is_told_apart_may_contain_itself(schema: Any) -> None:
    assert "root ::= " in grammar_of(schema, "here")


def test_the_count_of_ways_takes_no_long_time() -> None:
    """A chain of definitions, each of which refers to the one after it."""
    names = [f"d{i}" for i in range(1000)]
    chain = {
        name: {"type": "array", "items": {"$ref": f"#/$defs/{after}"}} for name, after in itertools.pairwise(names)
    }
    chain[names[-1]] = {"type": "null"}
    nodes = {name: Node("union", (after,)) for name, after in itertools.pairwise(names)}
    nodes[names[-1]] = Node("array", ("missing",))
    began = time.thread_time()
    assert is_bounded(nodes)
    assert time.thread_time() - began < 1
    with pytest.raises(InvalidRequest, match="64 levels"):
        grammar_of({"$ref": "#/$defs/d0", "$defs": chain}, "here")


def test_annotations_change_nothing() -> None:
    noted = {"type": "string", "title": "t", "description": "d", "default": 1, "examples": [], "$schema": "s"}
    assert grammar_of(noted, "x") == grammar_of(STRING, "x")


def test_literals_are_escaped() -> None:
    assert r"root ::= r0" in grammar_of({"const": 'a"\\\n'}, "x")
    assert r'r0 ::= "\"a\\\"\\\\\\n\""' in grammar_of({"const": 'a"\\\n'}, "x")


def test_references_are_followed_once() -> None:
    schema = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}
    assert len(grammar_of(schema, "x").splitlines()) < 25
