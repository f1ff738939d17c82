"""Logits processing applied by the target only: penalties, biases, min-p, grammar, and the logprobs of its tokens.

The drafter drafts without it, so a request with any of these is drafted for like another.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.fields import Fields
from pipesd_core.llamacpp.openai.json_schema import grammar_of, json_object
from pipesd_core.openai_values import wrong

MAX_TOP_LOGPROBS: Final = 20
MAX_COMPLETION_LOGPROBS: Final = 5
MAX_BIAS: Final = 100.0
MAX_BIASES: Final = 1024
"""Most entries of a logit_bias."""
MAX_REPETITION: Final = 100.0
"""Largest repetition_penalty; the smallest is 1 / this, so that a penalised logit stays a number in float32."""


class Constraint(Protocol):
    """The part of `constraint.Constraint` that sampling needs: which tokens may come next."""

    def allowed(self) -> NDArray[np.int64]: ...
    def accept(self, token: int) -> None: ...


class LogitsProcessing(Struct, frozen=True):
    """Penalties, biases, grammar and logprobs of a request, as vLLM has them; docs/sampling.md has their order.

    presence_penalty, frequency_penalty: -2 to 2, of the tokens of the output; 0 is off. repetition_penalty: 0.01 to
    100, of the tokens of prompt and output; 1 is off. min_p: 0 (off) to 1. logit_bias: (token id, -100 to 100).
    logprobs: how many of the most probable tokens to report beside the chosen one; None: no logprobs at all. grammar:
    of what may be written; None: anything.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name in ("presence_penalty", "frequency_penalty"):
            _within(name, getattr(self, name), -2.0, 2.0)
        _within("repetition_penalty", self.repetition_penalty, 1.0 / MAX_REPETITION, MAX_REPETITION)
        _within("min_p", self.min_p, 0.0, 1.0)
        for token, bias in self.logit_bias:
            _within(f"logit_bias.{token}", bias, -MAX_BIAS, MAX_BIAS)

    def check_ids(self, n_vocab: int) -> None:
        """Check the ids of the biases. Raises InvalidRequest for one that the model does not have."""
        for token, _ in self.logit_bias:
            if token >= n_vocab:
                raise InvalidRequest(
                    f"logit_bias has the token id {token}; ids of this model are below {n_vocab}", param="logit_bias"
                )


def take_logits_processing(fields: Fields, *, chat: bool) -> LogitsProcessing:
    """The logits processing that a body asks for. Raises InvalidRequest."""
    given = {
        name: value
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")
        if (value := fields.number(name)) is not None
    }
    logprobs = _chat_logprobs(fields) if chat else _completion_logprobs(fields)
    return LogitsProcessing(
        logit_bias=_logit_bias(fields.take("logit_bias")),
        logprobs=logprobs,
        grammar=response_grammar(fields.take("response_format")),
        **given,
    )


def response_grammar(value: Any) -> Grammar | None:
    """The grammar that a response_format asks for; None: anything may be written. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong("response_format", "an object", value)
    fields = Fields({f"response_format.{name}": item for name, item in value.items()})
    kind, described = fields.take("response_format.type"), fields.take("response_format.json_schema")
    fields.refuse_rest()
    if kind != "json_schema" and described is not None:
        raise InvalidRequest(
            "response_format.json_schema is only allowed with the type json_schema", param="response_format.json_schema"
        )
    if kind == "text":
        return None
    if kind == "json_object":
        return json_object()
    if kind == "json_schema":
        return _of_schema(described, "response_format.json_schema")
    raise wrong("response_format.type", "text, json_object or json_schema", kind)


def _of_schema(value: Any, where: str) -> Grammar:
    if not isinstance(value, dict):
        raise wrong(where, "an object with name and schema", value)
    fields = Fields({f"{where}.{name}": item for name, item in value.items()})
    for name in ("name", "description"):
        fields.string(f"{where}.{name}")
    fields.boolean(f"{where}.strict")
    schema = fields.take(f"{where}.schema")
    fields.refuse_rest()
    return grammar_of(schema, f"{where}.schema")


def _chat_logprobs(fields: Fields) -> int | None:
    wanted, count = fields.boolean("logprobs"), fields.integer("top_logprobs") or 0
    _within("top_logprobs", count, 0, MAX_TOP_LOGPROBS)
    if count and not wanted:
        raise InvalidRequest("top_logprobs is only allowed with logprobs: true", param="top_logprobs")
    return count if wanted else None


def _completion_logprobs(fields: Fields) -> int | None:
    value = fields.take("logprobs")
    if value is None or value is False:
        return None
    count = Fields({"logprobs": value}).integer("logprobs") or 0
    _within("logprobs", count, 0, MAX_COMPLETION_LOGPROBS)
    return count


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    if value is None or value == []:  # llama-server has a list of pairs
        return ()
    if not isinstance(value, dict):
        raise wrong("logit_bias", "an object of token ids and numbers", value)
    if len(value) > MAX_BIASES:
        raise InvalidRequest(f"logit_bias may hold {MAX_BIASES} tokens, but holds {len(value)}", param="logit_bias")
    biases = Fields({f"logit_bias.{key}": bias for key, bias in value.items()})
    result = []
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and key == str(int(key))):
            raise InvalidRequest(f"logit_bias has the key {key[:64]!r}, which is no token id", param="logit_bias")
        result.append((int(key), biases.number(f"logit_bias.{key}") or 0.0))
    return tuple(sorted(result))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must lie between {low:g} and {high:g}, but is {value:g}", param=name)
