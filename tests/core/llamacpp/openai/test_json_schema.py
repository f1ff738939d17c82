"""What is refused, and which texts a schema lets through: over a vocabulary without a model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from constraints import EOS, PIECES, VOCABULARY, drawn, takes
from hypothesis import HealthCheck, Phase, given, seed, settings
from json_schemas import check, schemas

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.json_schema import MAX_COUNT, MAX_LENGTH, MAX_NUMBER, grammar_of, json_object, lark_of

STRING = {"type": "string"}
NULL = {"type": "null"}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["a", 'b\n"x\\']}, "minItems": 1, "maxItems": 3},
        "age": {"type": ["integer", "null"]},
        "boss": {"$ref": "#"},
    },
    "required": ["name", "age"],
}
A = "#/$defs/a"
A_LEAF = {"$ref": "#/$defs/leaf"}
TAGGED = {"type": "object", "required": ["kind"]}
OBJECTS: dict[str, Any] = {"properties": {"a": NULL}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ["1", '"x"', "[]", "{}", "null", "-0.5e+10", '[1,{"a": []}]'], ["", "01", "nul", "[1,]", "{1:2}", " 1"]),
        (True, ["1", "[{}]"], [""]),
        ({"type": "string"}, ['""', '"ü€😀"', r'"\n\u001f\\"', r'"\u007f"'], ['"', '"\n"', r'"\ud83d"', r'"\x"', "1"]),
        ({"type": "string", "maxLength": 2}, ['""', '"é€"', r'"\u0007\n"'], ['"abc"']),
        ({"type": "string", "minLength": 2}, ['"ab"', '"abcdef"'], ['""', r'"\n"']),
        ({"type": "integer"}, ["0", "-12", "9999999999999999"], ["1.0", "+1", "00", "1e5"]),
        ({"type": ["boolean", "null"]}, ["true", "false", "null"], ["0", '"true"']),
        ({"enum": [1, "é", None, {"a": [1, 2]}]}, ["1", '"é"', "null", '{"a":[1,2]}'], ["2", '"e"', '{"a":[1]}']),
        ({"type": "string", "enum": [1, "x"]}, ['"x"'], ["1"]),
        ({"anyOf": [{"const": "a"}, {"type": "integer"}]}, ['"a"', "7"], ['"b"']),
        ({"allOf": [NULL]}, ["null"], ["1"]),
        ({"allOf": [{"minimum": 3}, {"type": "integer"}, {"maximum": 5}]}, ["3", "5"], ["2", "6", "4.5", '"x"']),
        # Numbers.
        ({"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}, ["0", str(2**53 - 1)], [str(2**53)]),
        ({"type": "integer", "exclusiveMinimum": 0, "multipleOf": 3}, ["3", "12"], ["0", "-3", "4"]),
        ({"type": "number", "minimum": 0.5, "exclusiveMaximum": 2}, ["0.5", "1.99", "1"], ["0.49", "2", "-1"]),
        ({"type": "number", "multipleOf": 0.25}, ["0.50", "3", "1.75"], ["0.3"]),
        # White space: one blank or one line break, behind what separates.
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2,\n  3]"], ["[1,  2]", "[1 ,2]", "[ 1]"]),
        ({"type": "object"}, ["{}", '{"a":1, "b": {}}', '{"a":\n\t\t1}'], ["[]", '{"a"}', '{"a":\n\n1}', '{ "a":1}']),
        # Arrays.
        ({"type": "array", "maxItems": 1}, ["[]", "[1]"], ["[1,2]"]),
        ({"type": "array", "minItems": 2, "maxItems": 3}, ["[1,2]", "[1,[],3]"], ["[]", "[1]", "[1,2,3,4]"]),
        ({"type": "array", "prefixItems": [NULL, STRING]}, ['[null,"x"]'], ["[]", "[null]", '[null,"x",1]']),
        ({"prefixItems": [NULL], "items": STRING}, ["[null]", '[null,"x","y"]', "1"], ["[]", "[null,null]"]),
        ({"type": "array", "prefixItems": [NULL], "minItems": 0}, ["[]", "[null]"], ["[null,1]"]),
        ({"type": "array", "prefixItems": [NULL], "minItems": 2}, ["[null,1]", "[null,1,2]"], ["[null]"]),
        ({"type": "array", "prefixItems": [NULL, STRING], "maxItems": 1}, ["[null]"], ["[]", '[null,"x"]']),
        ({"type": "array", "items": [NULL, STRING], "additionalItems": NULL}, ['[null,"x",null]'], ['[null,"x",1]']),
        # Objects: in the schema's order, and what is not spoken of does not come.
        ({"type": "object", "additionalProperties": NULL}, ["{}", '{"a":null,"b":null}'], ['{"a":1}']),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object", "required": ["x"]}, ['{"x":[1]}'], ["{}", '{"y":1}', '{"x":1,"y":1}']),
        (
            {"properties": {"a": NULL, "b": True}, "type": "object"},
            ["{}", '{"a":null}', '{"b":1}', '{"a": null, "b": 2}'],
            ['{"b":1,"a":null}', '{"c":1}', '{"a":null,}', '{,"b":1}'],
        ),
        (
            {"type": "object", **OBJECTS, "additionalProperties": STRING},
            ['{"a":null}', '{"a":null,"b":"x","":"y"}', r'{"a":null,"\n":"x"}', '{"a":null,"ab":"x"}'],
            ["{}", '{"a":null,"b":1}', '{"a":null,"a":"x"}', r'{"a":null,"\u0061":"x"}'],
        ),
        ({**OBJECTS, "additionalProperties": True}, ['{"a":null,"b":1}', "1"], ['{"a":1}', '{"b":1}']),
        ({"required": ["a"], "additionalProperties": NULL}, ['{"a":null,"b":null}', "1"], ['{"a":1}', "{}"]),
        (
            {"type": "object", "patternProperties": {"^x": NULL, "^y": STRING}, "properties": {"a": NULL}},
            ["{}", '{"a":null,"xa":null,"y":"z"}'],
            ['{"b":1}', '{"x":1}', '{"x":null,"a":null}'],
        ),
        ({"type": "object", "minProperties": 1}, ['{"a":1}'], ["{}"]),
        ({"type": "object", "maxProperties": 1}, ["{}", '{"a":null}'], ['{"a":null,"b":null}']),
        ({"type": "object", **OBJECTS, "minProperties": 1, "maxProperties": 1}, ['{"a":null}'], ["{}"]),
        (
            PERSON,
            ['{"name":"x","age":null}', '{"name":"x","tags":["a"],"age":5,"boss":{"name":"y","age":1}}'],
            ['{"name":"","age":1}', '{"name":"x"}', '{"name":"x","age":1,"boss":{}}', '{"age":1,"name":"x"}'],
        ),
        # Joined: narrowed as one.
        (
            {"allOf": [{"type": "object", **OBJECTS}, {"properties": {"b": {"type": "integer"}}}]},
            ['{"a":null}', '{"a":null,"b":1}'],
            ['{"b":1}', '{"a":null,"b":null}', '{"a":null,"c":1}'],
        ),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["c"]}]},
            ['{"a":1}', '{"a":1,"b":2}', '{"b":1,"c":2}'],
            ["{}", '{"b":1}', '{"a":1,"d":1}'],
        ),
        (
            {"$ref": "#/$defs/a", "properties": {"b": NULL}, "$defs": {"a": {"type": "object", **OBJECTS}}},
            ['{"a":null,"b":null}', '{"a":null}'],
            ["{}", '{"b":null,"a":null}', '{"a":null,"c":1}', "1"],
        ),
        (
            {"allOf": [{"$ref": "#/$defs/a"}], "title": "x", "$defs": {"a": {"type": "object", **OBJECTS}}},
            ['{"a":null}'],
            ["{}", '{"a":null,"b":1}'],
        ),
        ({"anyOf": [{"type": "object", **OBJECTS}, NULL], "default": 1}, ["null", '{"a":null}'], ['{"a":null,"b":1}']),
        # Definitions, by any name.
        (
            {"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"anyOf": [NULL, {"items": {"$ref": "#"}}]}}},
            ["null", "[null,[1]]"],
            [""],
        ),
        ({"anyOf": [NULL, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]}, ["null", "[null]"], ["[[]]"]),
        # Alternatives of which one only may hold.
        (
            {
                "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
                "discriminator": {"propertyName": "kind"},
                "$defs": {
                    "a": {"type": "object", "properties": {"kind": {"const": "a"}, "x": NULL}, "required": ["kind"]},
                    "b": {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]},
                },
            },
            ['{"kind":"a","x":null}', '{"kind":"c"}'],
            ['{"kind":"b","x":null}', "{}"],
        ),
        (
            {
                "$ref": "#/$defs/tree",
                "$defs": {
                    "tree": {
                        "properties": {"kind": {"const": "tree"}, "of": {"oneOf": [{"$ref": "#/$defs/tree"}, A_LEAF]}},
                        "required": ["kind", "of"],
                        "type": "object",
                    },
                    "leaf": {"properties": {"kind": {"const": "leaf"}, "x": {"oneOf": [NULL, STRING]}}, **TAGGED},
                },
            },
            ['{"kind":"tree","of":{"kind":"tree","of":{"kind":"leaf","x":null}}}'],
            ['{"kind":"leaf"}', '{"kind":"tree","of":{"kind":"leaf","x":1}}'],
        ),
        ({"oneOf": [NULL, STRING], "anyOf": [STRING, {"type": "integer"}]}, ['"x"'], ["null", "1"]),
        # Patterns and formats.
        ({"type": "string", "pattern": "^[a-c]{2,3}$"}, ['"ab"', '"abc"'], ['"a"', '"abd"', '"abcc"']),
        ({"type": "string", "pattern": "b", "maxLength": 2}, ['"b"', '"ab"'], ['"a"', '"abc"']),
        ({"type": "string", "pattern": "^[0-9-]+$", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"1-1"']),
    ],
)  # fmt: skip
def test_what_a_schema_lets_through(schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of(schema, "x")
    assert [text for text in good if not takes(grammar, text)] == []
    assert [text for text in bad if takes(grammar, text)] == []


def test_any_object() -> None:
    assert takes(json_object(), '{"a": [1,{"b": null}], "": "x"}')
    assert not takes(json_object(), "[1]")


def test_a_schema_within_a_longer_grammar() -> None:
    grammar = Grammar('start: "f(" ' + lark_of({"type": "integer"}, "x") + ' ")"', "x")
    assert takes(grammar, "f(12)")
    assert not takes(grammar, "f()")


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        (None, ""),
        (False, ""),
        ([1], ""),
        ({"type": "strin"}, ".type"),
        ({"type": []}, ".type"),
        ({"type": None}, ".type"),
        ({"type": [["string"]]}, ".type"),
        ({"type": "string", "pattern": "(?=a)"}, ".pattern"),
        ({"type": "string", "pattern": 1}, ".pattern"),
        ({"type": "string", "format": "unknown"}, ".format"),
        ({"type": "string", "format": 1}, ".format"),
        ({"type": "string", "contentEncoding": "base64"}, ".contentEncoding"),
        ({"type": "string", "contentMediaType": "text/html"}, ".contentMediaType"),
        ({"type": "integer", "minimum": "0"}, ".minimum"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, ".exclusiveMinimum"),
        ({"type": "integer", "maximum": MAX_NUMBER + 1}, ".maximum"),
        ({"type": "number", "multipleOf": 0}, ".multipleOf"),
        ({"const": [1, {"a": -(10**20)}]}, ".const"),
        ({"enum": [1.5, 1e300]}, ".enum"),
        ({"const": 0.1234567890123456}, ".const"),
        ({"const": 1e-23}, ".const"),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6}, ".multipleOf"),
        ({"type": "integer", "multipleOf": 7, "exclusiveMinimum": 7, "exclusiveMaximum": 14}, ".multipleOf"),
        ({"type": "integer", "multipleOf": 1.5, "minimum": 1, "maximum": 2}, ".multipleOf"),
        ({"multipleOf": 5, "maximum": -1}, ".multipleOf"),
        ({"allOf": [{"multipleOf": 5}, {"minimum": 1}]}, ".allOf[0].multipleOf"),
        ({"type": "array", "uniqueItems": True}, ".uniqueItems"),
        ({"type": "array", "contains": STRING}, ".contains"),
        ({"type": "array", "items": [STRING], "prefixItems": [STRING]}, ".prefixItems"),
        ({"type": "array", "additionalItems": STRING}, ".additionalItems"),
        ({"type": "array", "items": [STRING], "additionalItems": 1}, ".additionalItems"),
        ({"type": "array", "prefixItems": [STRING, {"nonsense": 1}]}, ".prefixItems[1].nonsense"),
        ({"type": "array", "prefixItems": {}}, ".prefixItems"),
        ({"type": "array", "minItems": -1}, ".minItems"),
        ({"type": "array", "minItems": True}, ".minItems"),
        ({"type": "array", "maxItems": MAX_COUNT + 1}, ".maxItems"),
        ({"type": "string", "maxLength": MAX_LENGTH + 1}, ".maxLength"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, ".maxLength"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, ".maxItems"),
        ({"not": STRING}, ".not"),
        ({"if": STRING}, ".if"),
        ({"allOf": []}, ".allOf"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [STRING, {"if": True}]}, ".anyOf[1].if"),
        ({"oneOf": {}}, ".oneOf"),
        ({"enum": []}, ".enum"),
        ({"enum": 1}, ".enum"),
        ({"const": 1, "type": "string"}, ""),
        ({"$ref": "http://x/y"}, ".$ref"),
        ({"$ref": "#/$defs/x"}, ".$ref"),
        ({"$ref": 1}, ".$ref"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, "#/$defs/a.not"),
        ({"$dynamicRef": "#x"}, ".$dynamicRef"),
        ({"type": "object", "properties": []}, ".properties"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, ".required"),
        ({"type": "object", "required": "a"}, ".required"),
        ({"type": "object", "properties": {"a": {"uniqueItems": True}}}, ".properties.a.uniqueItems"),
        ({"type": "object", "patternProperties": {"(": NULL}}, ""),
        ({"type": "object", "patternProperties": {"\\b": NULL}}, ".patternProperties"),
        ({"type": "object", "patternProperties": {"[0-9]": NULL, "\\d": STRING}}, ".patternProperties"),
        ({"type": "object", "patternProperties": {"x": NULL}, "additionalProperties": NULL}, ".additionalProperties"),
        ({"allOf": [{"patternProperties": {"x": NULL}}, NULL]}, ".allOf[0].patternProperties"),
        ({"allOf": [{"additionalProperties": NULL}, NULL]}, ".allOf[0].additionalProperties"),
        ({"type": "object", "minProperties": 2}, ".minProperties"),
        ({"type": "object", "propertyNames": STRING}, ".propertyNames"),
        ({"type": "object", "unevaluatedProperties": False}, ".unevaluatedProperties"),
        ({"type": "object", "dependentRequired": {}}, ".dependentRequired"),
        ({"$id": "x"}, ".$id"),
        ({"x-guidance": {"lenient": True}}, ".x-guidance"),
        ({"nullable": True}, ".nullable"),
        ({"unknown": 1}, ".unknown"),
    ],
)
def test_what_cannot_be_held_to_is_refused_by_name(schema: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        VOCABULARY.constraint(grammar_of(schema, "here"))
    assert error.value.param is not None
    assert error.value.param.removeprefix("here") == param
    assert error.value.message.startswith(error.value.param)
    assert len(error.value.message) < 500


def a_or_b(**more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": NULL, "b": NULL}, **more}


@pytest.mark.parametrize(
    "alternatives",
    [
        [{"type": "integer"}, {"type": "number"}],
        [{"const": 1}, {"const": 2}],
        [a_or_b(required=["a"]), a_or_b()],
        [a_or_b(required=["a"]), {"type": "object", "properties": {"b": NULL}}],
        [{"type": "array", "prefixItems": [NULL]}, {"type": "array", "prefixItems": [NULL, NULL]}],
    ],
)
def test_alternatives_of_which_two_might_hold_are_no_one_of(alternatives: list[Any]) -> None:
    """Also those that are told apart only by what this module narrows."""
    with pytest.raises(InvalidRequest, match="oneOf") as error:
        grammar_of({"properties": {"x": {"oneOf": alternatives}}}, "here")
    assert error.value.param == "here.properties.x.oneOf"
    for alternative in alternatives:
        grammar_of(alternative, "here")


def test_a_one_of_in_what_an_alternative_refers_to_is_proven_too() -> None:
    inner = {"properties": {"x": {"oneOf": [{"const": 1}, {"const": 2}]}, "kind": {"const": "leaf"}}, **TAGGED}
    with pytest.raises(InvalidRequest, match="might hold at once"):
        grammar_of({"oneOf": [A_LEAF, NULL], "$defs": {"leaf": inner}}, "here")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [NULL, {"$ref": "#"}]},
        {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"oneOf": [NULL, {"$ref": "#/$defs/b"}]}, "b": {"$ref": A}}},
        # Both are known by the time that the loop is closed.
        {"$ref": A, "$defs": {"a": {"items": {"$ref": "#/$defs/x"}, "$ref": "#/$defs/x"}, "x": {"$ref": A}}},
    ],
)  # fmt: skip
def test_a_schema_that_is_its_own_definition_is_refused(schema: Any) -> None:
    with pytest.raises(InvalidRequest, match="nothing but a reference to itself"):
        grammar_of(schema, "x")


def test_bounds() -> None:
    nested: dict[str, Any] = STRING
    for _ in range(70):
        nested = {"type": "array", "items": nested}
    chain = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(600)} | {"d600": NULL}
    # Deep only for who follows properties first: llguidance, whose stack is full at some 2,000.
    properties = {f"p{i}": {"$ref": f"#/$defs/d{600 - i}"} for i in range(601)}
    counts = {"type": "object", "properties": {f"p{i}": {"type": "array", "minItems": 999} for i in range(21)}}
    for schema, match in (
        (counts, "20000"), ({"enum": ["x" * 70_000]}, "65536"), (nested, "64 levels"),
        ({"anyOf": [NULL] * 1100}, "1024 schemas"),
        ({"$ref": "#/$defs/d0", "$defs": chain}, "64 levels"), ({"properties": properties, "$defs": chain}, "1024"),
        ({"properties": {"a" * 900: NULL}, "additionalProperties": True}, "such long names"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=match):
            grammar_of(schema, "here")


D29 = {"d29": NULL}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/d0", "$defs": {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(29)} | D29},
        {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": MAX_LENGTH} for i in range(500)}},
        {"type": "array", "minItems": MAX_COUNT, "maxItems": MAX_COUNT, "items": {"minItems": MAX_COUNT}},
        {"enum": [f"{i}-{i * 7919 % 10007}" for i in range(4000)]},
        {"type": "object", "properties": {"p" * i: NULL for i in range(60)}, "additionalProperties": STRING},
        {"anyOf": [{"type": "object", "properties": {f"p{i}": NULL}, "required": [f"p{i}"]} for i in range(100)]},
    ],
)  # fmt: skip
def test_the_largest_schemas_are_taken(schema: Any) -> None:
    VOCABULARY.constraint(grammar_of(schema, "x"))


def test_annotations_change_nothing() -> None:
    noted = {"type": "string", "title": "t", "description": "d", "default": 1, "examples": [], "$schema": "s"}
    assert grammar_of(noted, "x") == grammar_of(STRING, "x")
    deprecated = {"deprecated": True, "readOnly": True, "writeOnly": True, "$comment": "c", "$defs": {"x": {"not": 1}}}
    assert grammar_of(STRING | deprecated, "x") == grammar_of(STRING, "x")


def test_what_is_no_schema_is_no_keyword() -> None:
    """Names of properties and values are anything."""
    schema = {"type": "object", "properties": {"not": NULL, "x-guidance": {"const": {"$ref": "x", "not": 1}}}}
    assert takes(grammar_of(schema, "x"), json.dumps({"not": None, "x-guidance": {"$ref": "x", "not": 1}}))


def test_whatever_is_drawn_satisfies_a_random_schema() -> None:
    """Or the schema is refused before anything is written."""
    random_schemas(150)


@pytest.mark.full
def test_whatever_is_drawn_satisfies_a_random_schema_of_5000() -> None:
    random_schemas(5000)


def random_schemas(count: int) -> None:
    seen = {"refused": 0, "named": 0, "complete": 0}

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate])
    @seed(1)
    @given(schemas())
    def each(schema: Any) -> None:
        try:
            constraint = VOCABULARY.constraint(grammar_of(schema, "here"))
        except InvalidRequest as error:
            seen["refused"] += 1
            seen["named"] += error.message.startswith(error.param or "?")
            return
        if (text := drawn(constraint, PIECES, [EOS], np.random.default_rng(5), 150)) is not None:
            seen["complete"] += 1
            check(text, schema)

    each()
    assert seen["complete"] > count / 3, seen
    assert seen["named"] == seen["refused"] > count / 10, seen
    print(seen)
