"""Schemas, as llama.cpp's grammars hold texts to them, over the demo target's vocabulary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from repository import BUILD

from pipesd_core.engine.interface import ModelInfo
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.binding import Model
from pipesd_core.llamacpp.openai.json_schema import JSON_OBJECT, grammar_of
from pipesd_core.llamacpp.openai.prompt import Prompter
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.protocol.messages import Endpoint

pytestmark = pytest.mark.e2e

TARGET = BUILD / "demo-target-F32.gguf"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "tags": {"type": "array", "items": {"enum": ["a", 'b\n"x\\']}, "minItems": 1, "maxItems": 3},
        "age": {"type": ["integer", "null"]},
        "boss": {"$ref": "#"},
    },
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(TARGET) as model:
        yield model


def takes(model: Model, grammar: str, text: str) -> bool:
    """Whether a text is complete in the grammar; written as the tokenizer cuts it, and byte by byte."""
    results = set()
    singles = {piece: token for token, piece in model.vocabulary() if len(piece) == 1}
    for ids in (model.tokenize(text, special=False), [singles[bytes([byte])] for byte in text.encode()]):
        position = model.grammar(grammar)
        for token in ids:
            if not position.allowed(np.array([token]))[0]:
                results.add(False)
                break
            position.accept(token)
        else:
            results.add(bool(position.allowed(np.array(model.eog_ids)).all()))
    (result,) = results
    return result


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ["1", '"x"', "[]", "{}", "null", "-0.5e+10", '[1,{"a": []}]'], ["", "01", "nul", "[1,]", "{1:2}", " 1"]),
        ({"type": "string"}, ['""', '"ü€😀"', r'"\n\u00e9\/"'], ['"', '"\n"', r'"\ud83d"', r'"\x"', "1"]),
        ({"type": "string", "maxLength": 2}, ['""', '"é€"', r'"\u0041\n"'], ['"abc"']),
        ({"type": "string", "minLength": 2}, ['"ab"', '"abcdef"'], ['""', r'"\n"']),
        ({"type": "integer"}, ["0", "-12", "9999999999999999"], ["1.0", "+1", "00", "1e5"]),
        ({"type": ["boolean", "null"]}, ["true", "false", "null"], ["0", '"true"']),
        ({"enum": [1, "é", None, {"a": [1, 2]}]}, ["1", '"é"', "null", '{"a":[1,2]}'], ["2", '"e"', '{"a": [1,2]}']),
        ({"type": "string", "enum": [1, "x"]}, ['"x"'], ["1"]),
        ({"anyOf": [{"const": "a"}, {"type": "integer"}]}, ['"a"', "7"], ['"b"']),
        ({"allOf": [{"type": "null"}]}, ["null"], ["1"]),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2,3]", "[\n  1\n]"], ["[1.5]", "[,]", "1"]),
        ({"type": "array", "maxItems": 1}, ["[]", "[1]"], ["[1,2]"]),
        ({"type": "array", "minItems": 1, "maxItems": 1}, ["[1]"], ["[]", "[1,2]"]),
        ({"type": "array", "minItems": 1}, ["[1]", "[1,2,3]"], ["[]"]),
        ({"type": "array", "maxItems": 0}, ["[]", "[ ]"], ["[1]"]),
        ({"type": "array", "minItems": 2, "maxItems": 3}, ["[1,2]", "[1,[],3]"], ["[]", "[1]", "[1,2,3,4]"]),
        ({"type": "array", "minItems": 2}, ["[1,2]", "[1,2,3,4]"], ["[1]"]),
        ({"type": "object"}, ["{}", '{"a":1, "b": {}}'], ["[]", '{"a"}']),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ["{}", '{"a":null,"b":null}'], ['{"a":1}']),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a":1}']),
        ({"type": "object", "required": ["x"]}, ['{"x":[1]}'], ["{}", '{"y":1}']),
        (
            {"properties": {"a": {"type": "null"}, "b": True}, "type": "object"},
            ["{}", '{"a":null}', '{"b":1}', '{ "a": null, "b": 2 }'],
            ['{"b":1,"a":null}', '{"c":1}', '{"a":null,}', '{,"b":1}'],
        ),
        (
            PERSON,
            ['{"name":"x","age":null}', '{"name":"x","tags":["a"],"age":5,"boss":{"name":"y","age":1}}'],
            ['{"name":"","age":1}', '{"name":"x"}', '{"name":"x","age":1,"boss":{}}', '{"age":1,"name":"x"}'],
        ),
    ],
)  # fmt: skip
def test_what_a_schema_lets_through(model: Model, schema: Any, good: list[str], bad: list[str]) -> None:
    grammar = grammar_of(schema, "x")
    assert [text for text in good if not takes(model, grammar, text)] == []
    assert [text for text in bad if takes(model, grammar, text)] == []


def test_any_object(model: Model) -> None:
    assert takes(model, JSON_OBJECT, '{"a": [1, {"b": null}], "": "x"}')
    assert not takes(model, JSON_OBJECT, "[1]")


def holds(value: Any) -> bool:
    """PERSON, checked by hand."""
    assert list(value) == [name for name in PERSON["properties"] if name in value]
    assert {"name", "age"} <= set(value)
    assert 1 <= len(value["name"]) <= 5
    assert value["age"] is None or isinstance(value["age"], int)
    assert len(value.get("tags", ["a"])) in (1, 2, 3)
    assert set(value.get("tags", [])) <= {"a", 'b\n"x\\'}
    return "boss" not in value or holds(value["boss"])


@pytest.mark.parametrize(
    ("grammar", "check"), [(grammar_of(PERSON, "x"), holds), (JSON_OBJECT, lambda value: isinstance(value, dict))]
)
def test_whatever_is_drawn_is_valid(model: Model, grammar: str, check: Callable[[Any], bool]) -> None:
    """Tokens at random, odd ones preferred: bytes that are no characters, control tokens, ends."""
    rng = np.random.default_rng(5)
    ids = np.arange(model.n_vocab)
    odd = np.array([len(piece) == 1 and piece[0] > 0x7F for _, piece in model.vocabulary()])
    complete = 0
    for _ in range(40):
        position, written = model.grammar(grammar), b""
        for _ in range(120):
            allowed = position.allowed(ids)
            choices = np.flatnonzero(allowed & odd) if rng.random() < 0.3 else ids[:0]
            token = int(rng.choice(choices if len(choices) else np.flatnonzero(allowed)))
            if token in model.eog_ids:
                assert check(json.loads(written.decode()))
                complete += 1
                break
            position.accept(token)
            written += model.piece(token, special=False)
    assert complete > 3


def test_what_is_not_allowed_cannot_be_accepted(model: Model) -> None:
    """llama.cpp would end the process."""
    position = model.grammar(JSON_OBJECT)
    for token in (*model.eog_ids, *model.tokenize("[", special=False)):
        with pytest.raises(ValueError, match="not allowed"):
            position.accept(token)


def test_a_grammar_goes_on_where_another_model_left_off(model: Model) -> None:
    prompter = Prompter(model, ModelInfo("demo", model.n_vocab, bytes(16), 100, 8))
    body = b'{"prompt": "x", "response_format": {"type": "json_object"}}'
    request = parse(Endpoint.COMPLETIONS, body)
    begun = model.tokenize('{"a": [1', special=False)
    position = prompter.grammar(request, begun)
    assert position is not None
    closing, brace = (model.tokenize(text, special=False)[:1] for text in "]}")
    assert [bool(position.allowed(np.array(ids))[0]) for ids in (closing, brace)] == [True, False]
    with pytest.raises(InvalidRequest, match="does not follow the response_format"):
        prompter.grammar(request, [*begun, *brace])


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#"}, {"anyOf": [{"type": "null"}, {"$ref": "#"}]}, {"allOf": [{"$ref": "#"}]}],
)
def test_a_schema_that_is_its_own_definition_is_refused(model: Model, schema: Any) -> None:
    with pytest.raises(InvalidRequest) as error:
        model.grammar(grammar_of(schema, "x"))
    assert error.value.param == "response_format"


NODE = {"$ref": "#/$defs/node"}


def tree(**leaf: Any) -> dict[str, Any]:
    """Objects that contain each other, told apart by their first property."""
    kinds = {
        "leaf": leaf,
        "pair": {"left": NODE, "right": NODE},
        "list": {"items": {"type": "array", "items": NODE}},
    }
    objects = [
        {"type": "object", "properties": {"kind": {"const": kind}, **inner}, "required": ["kind", *inner]}
        for kind, inner in kinds.items()
    ]
    return {"$defs": {"node": {"anyOf": objects}}, "$ref": "#/$defs/node"}


def test_a_tree_costs_no_more_the_deeper_it_is(model: Model) -> None:
    text = '{"kind":"pair","left":' * 100 + '{"kind":"list","items":[' * 5
    position = model.grammar(grammar_of(tree(value={"type": "integer"}), "x"))
    began = time.thread_time()
    for token in model.tokenize(text, special=False):
        position.accept(token)
    assert time.thread_time() - began < 2
    assert takes(model, grammar_of(tree(), "x"), '{"kind":"list","items":[{"kind":"leaf"}]}')


def test_the_largest_schemas_are_taken(model: Model) -> None:
    properties = {f"property_{i}": {"type": "string", "maxLength": 1000} for i in range(19)}
    properties["list"] = {"type": "array", "maxItems": 1000, "minItems": 1000}
    position = model.grammar(grammar_of({"type": "object", "properties": properties}, "x"))
    assert position.allowed(np.array(model.tokenize("{", special=False))).all()
