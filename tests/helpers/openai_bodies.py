"""Random request bodies from the types of the OpenAI SDK: valid values of each field, neutral, wrong and unknown ones.

Seeded: the same bodies in every run. The fields and their types are those of the installed SDK, read at run time, and
beside them the parameters of other servers that `openai_parameters` knows.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import Any, Final, Literal, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from pipesd_core.openai_parameters import TABLE
from pipesd_core.protocol.messages import Endpoint

SDK: Final[dict[Endpoint, type]] = {
    Endpoint.CHAT_COMPLETIONS: chat_create_params.CompletionCreateParamsStreaming,
    Endpoint.COMPLETIONS: completion_create_params.CompletionCreateParamsStreaming,
}
FIELDS: Final = {endpoint: get_type_hints(kind) | {"stream": bool | None} for endpoint, kind in SDK.items()}
"""The types of the SDK's fields."""
SERVED: Final[dict[str, tuple[Any, ...]]] = {
    "model": ("fake", "", "default", None),
    "n": (1, 2, 3, 1.0, 2.0, None),
    "max_tokens": (1, 5, 5.0, -1, None),
    "max_completion_tokens": (1, 5, 5.0, -1, None),
    "temperature": (0, 1, 0.7, 2, None),
    "top_p": (1, 0.5),
    "top_k": (-1, 0, 5, 5.0),
    "min_p": (0, 0.1),
    "presence_penalty": (0, -2, 1.5),
    "frequency_penalty": (0, 2, 0.25),
    "repetition_penalty": (1, 1.1),
    "seed": (0, 7, 7.0, -1, 2**63 - 1),
    "stop": (None, [], "!", ["a", "b"]),
    "logit_bias": ({}, {"5": 1, "6": -100.0}),
    "stream": (True, False, None),
    "ignore_eos": (False,),
    "prompt": ("hi", ["hi"], [1, 2], [[1, 2]], ["hi", "ho"], [[1], [2, 3]], [1.0, 2], "x" * 100),
    "messages": ([{"role": "user", "content": "hi"}], [{"role": "system", "content": [{"type": "text", "text": "a"}]}]),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
}
"""Values that are of their type, and mostly in range: a type alone does not say what is."""
ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2, 4.0, 1.5, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30, 1e300, "", "a", "1", "yes",
    "default", "\u2028", "\0", [], [None], [1], ["a"], ["a", [1]], [[1], "a"], ["", "a"], [[], []], [-1], [10**9],
    [True], [{}], {}, {"type": "text"}, {"a": 1}, {"pipesd_noise": 1}, {"include_usage": True}, {"5": 101}, {"x": 1},
)  # fmt: skip
"""Values of any type, in any field."""
UNKNOWN: Final = ("temprature", "max_new_tokens", "ü", "a b", "x\r\ny", "x" * 300, "", "options", "__proto__", "N")
RAW: Final = (
    b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"prompt": "x", "n": 2, "seed": 1e400}',
    b'{"prompt": "x", "n": 2, "seed": "\xff"}', b'{"prompt": "x", "n": 2, "user": "\xff"}',
    b'{"prompt": ["x", "\xff"]}', b'{"prompt": ["x", "y"], "seed": "\xff"}', b'{"prompt": "x", "top_k": 1e400}',
    b'{"prompt": "\\ud800"}', b'{"prompt": "x", "prompt": "y"}', b'{"prompt": "x"} x', b"[" * 10_000,
    b'{"prompt": "x", "stop": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", b'\xef\xbb\xbf{"prompt": "x"}',
    b'{"prompt": "x", "n": 2, "best_of": 1e400}', b'{"prompt": "x", "n": 2, "best_of": true}',
    b'{"prompt": ["x", "y"], "best_of": true}', b'{"prompt": ["x", ""]}', b'{"prompt": [[1], [999999]]}',
    b'{"prompt": "x", "n": 2, "seed": 9223372036854775807}', b'{"prompt": "x", "n": 2, "seed": 5.0}',
)  # fmt: skip
"""Bodies that no JSON encoder makes, and some that are right but for what one place looks at."""


def bodies(seed: int, count: int) -> Iterator[tuple[Endpoint, Any]]:
    """So many endpoints and bodies, decoded, or raw where they are bytes."""
    rng = Random(seed)
    yield from ((endpoint, raw) for endpoint in FIELDS for raw in RAW)
    for _ in range(count - 2 * len(RAW)):
        endpoint = rng.choice(list(FIELDS))
        yield endpoint, _body(rng, endpoint)


def _body(rng: Random, endpoint: Endpoint) -> dict[str, Any]:
    chat = endpoint is Endpoint.CHAT_COMPLETIONS
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        match rng.randrange(8):
            case 0 | 1 | 2:
                name = rng.choice([name for name in SERVED if name not in ("prompt", "messages") or name in body])
                body[name] = rng.choice(SERVED[name])
            case 3:
                name, kind = rng.choice(list(FIELDS[endpoint].items()))
                body[name] = value_of(rng, kind)
            case 4 | 5:
                parameter = rng.choice(TABLE)
                body[parameter.name] = rng.choice([*parameter.neutral, None, rng.choice(ODD)])
            case 6:
                body[rng.choice([*FIELDS[endpoint], *SERVED])] = rng.choice(ODD)
            case 7 if rng.random() < 0.3:
                body[rng.choice(UNKNOWN)] = rng.choice(ODD)
            case 7 if body and rng.random() < 0.3:
                del body[rng.choice(list(body))]
            case 7:
                body["messages" if chat else "prompt"] = _nested(rng, body.get("messages" if chat else "prompt"))
    items = list(body.items())
    rng.shuffle(items)
    return dict(items)


def _nested(rng: Random, value: Any) -> Any:
    """The value with something odd in its depth."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _nested(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice([*value, "tool_calls", "refusal", "annotations", "audio", "name", "x"])
        return value | {name: _nested(rng, value.get(name))}
    return rng.choice(ODD)


def value_of(rng: Random, kind: Any) -> Any:
    """A value of a type of the SDK."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Required:
        return value_of(rng, parts[0])
    if origin in (Union, types.UnionType):
        return value_of(rng, rng.choice(parts))
    if origin is Literal:
        return rng.choice(parts)
    if is_typeddict(kind):
        required = kind.__required_keys__
        return {
            name: value_of(rng, part)
            for name, part in get_type_hints(kind).items()
            if name in required or rng.random() < 0.3
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {str(rng.randrange(300)): value_of(rng, parts[1]) for _ in range(rng.randrange(3))}
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return [value_of(rng, parts[0]) for _ in range(rng.randrange(3))]
    match kind:
        case types.NoneType:
            return None
        case _ if kind is bool:
            return rng.random() < 0.5
        case _ if kind is int:
            return rng.choice((0, 1, 2, 3, 5, 100))
        case _ if kind is float:
            return rng.choice((0.0, 0.5, 1.0, 2.0))
        case _ if kind is str:
            return rng.choice(("", "a", "fake", "none"))
    return rng.choice(ODD)  # object
