from __future__ import annotations

from typing import Any

import pytest

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.fields import Fields
from pipesd_core.llamacpp.openai.json_schema import grammar_of, json_object
from pipesd_core.llamacpp.openai.logits_processing import MAX_BIASES, LogitsProcessing, take_logits_processing


def take(chat: bool = True, **body: Any) -> LogitsProcessing:
    fields = Fields(body)
    logits_processing = take_logits_processing(fields, chat=chat)
    fields.refuse_rest({})
    return logits_processing


def test_nothing_given_changes_nothing() -> None:
    neutral = take(presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, min_p=0, logit_bias={})
    assert neutral == take(logit_bias=None) == LogitsProcessing()


def test_all_given() -> None:
    logits_processing = take(
        presence_penalty=-2, frequency_penalty=2, repetition_penalty=1.3, min_p=1, logit_bias={"7": 100, "0": -0.5}
    )
    assert logits_processing == LogitsProcessing(-2.0, 2.0, 1.3, 1.0, ((0, -0.5), (7, 100.0)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"presence_penalty": -2.01}, "presence_penalty"),
        ({"frequency_penalty": True}, "frequency_penalty"),
        ({"repetition_penalty": -1}, "repetition_penalty"),
        ({"repetition_penalty": 101}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 10**400}, "min_p"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logit_bias": "5"}, "logit_bias"),
        ({"logit_bias": {"05": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
        ({"logit_bias": {"5": -100.5}}, "logit_bias.5"),
    ],
)
def test_a_bad_value_names_its_parameter(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        take(**body)
    assert error.value.param == param
    assert param.partition(".")[0] in error.value.message
    assert len(error.value.message) < 200


def test_logprobs() -> None:
    assert take(logprobs=False, top_logprobs=0).logprobs is None
    assert take(logprobs=True).logprobs == 0
    assert take(logprobs=True, top_logprobs=20).logprobs == 20
    assert take(chat=False, logprobs=False).logprobs is None
    assert [take(chat=False, logprobs=count).logprobs for count in (0, 5)] == [0, 5]


@pytest.mark.parametrize("body", [{"logprobs": 6}, {"logprobs": -1}, {"logprobs": True}, {"logprobs": "1"}])
def test_bad_logprobs_of_completions(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as error:
        take(chat=False, **body)
    assert error.value.param == "logprobs"


THING = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_response_formats() -> None:
    assert take(response_format={"type": "text"}).grammar is None
    assert take(response_format={"type": "json_object"}).grammar == json_object()
    described = {"name": "thing", "description": "d", "strict": True, "schema": THING}
    grammar = take(response_format={"type": "json_schema", "json_schema": described}).grammar
    assert grammar == grammar_of(THING, "response_format.json_schema.schema")
    assert (
        grammar == take(chat=False, response_format={"type": "json_schema", "json_schema": {"schema": THING}}).grammar
    )


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ([], ""),
        ({}, ".type"),
        ({"type": "regex"}, ".type"),
        ({"type": "json_object", "schema": {}}, ".schema"),
        ({"type": "text", "json_schema": {"schema": {}}}, ".json_schema"),
        ({"type": "json_schema"}, ".json_schema"),
        ({"type": "json_schema", "json_schema": 1}, ".json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ".json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}, ".json_schema.name"),
        ({"type": "json_schema", "json_schema": {"strict": 1, "schema": {}}}, ".json_schema.strict"),
        ({"type": "json_schema", "json_schema": {"other": 1, "schema": {}}}, ".json_schema.other"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, ".json_schema.schema.not"),
    ],
)
def test_bad_response_formats(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        take(response_format=value)
    assert error.value.param == f"response_format{param}"


def test_biases_are_counted() -> None:
    assert len(take(logit_bias={str(token): 1 for token in range(MAX_BIASES)}).logit_bias) == MAX_BIASES
    with pytest.raises(InvalidRequest, match=f"{MAX_BIASES} tokens, but holds {MAX_BIASES + 1}") as error:
        take(logit_bias={str(token): 1 for token in range(MAX_BIASES + 1)})
    assert error.value.param == "logit_bias"


def test_biases_of_tokens_that_the_model_does_not_have() -> None:
    take(logit_bias={"7": 1}).check_ids(8)
    with pytest.raises(InvalidRequest, match=r"8.*below 8"):
        take(logit_bias={"8": 1}).check_ids(8)
