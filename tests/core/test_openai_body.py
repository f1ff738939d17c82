"""What a body asks for, of any that a client may send."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_body import (
    choices_per_prompt,
    has_multiple_choices,
    is_list_of_prompts,
    is_more_than_one,
    may_be_true,
    may_stream,
    names_served_model,
    read_outline,
    response_format,
    split_prompts,
    unwrap_prompt,
    wants_stream,
    with_seed,
)
from pipesd_core.protocol.messages import Endpoint

CHAT, TEXT = Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS


def test_a_stream_is_wanted() -> None:
    assert [wants_stream(body) for body in (b"{}", b'{"stream": null}', b'{"stream": true}')] == [False, False, True]


@pytest.mark.parametrize(("body", "param"), [(b'{"stream": 1}', "stream"), (b"{", None), (b"\xff", None)])
def test_what_cannot_be_read_is_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as error:
        wants_stream(body)
    assert error.value.param == param


@pytest.mark.parametrize(
    ("n", "choices", "more"),
    [
        (2, 2, True),
        (2.0, 2, True),
        (2.5, 1, True),
        (1, 1, False),
        (1.0, 1, False),
        (0, 1, False),
        (-1, 1, False),
        (True, 1, False),
        ("2", 1, True),
        (" +3 ", 1, True),
        ("1", 1, False),
        ("x", 1, False),
        (None, 1, False),
    ],
)
def test_counts(n: Any, choices: int, more: bool) -> None:
    assert choices_per_prompt(n) == choices
    assert is_more_than_one(n) is more


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (b'["a", "b"]', [b'"a"', b'"b"']),
        (b"[[1, 2], []]", [b"[1, 2]", b"[]"]),
        (b'["a"]', [b'"a"']),
        (b"[" + b" \n" * 100 + b'"a" , "b"]', [b'"a"', b'"b"']),
        (b'["a", [1]]', []),
        (b'["a", 1]', []),
        (b"[1, 2]", []),
        (b"[]", []),
        (b'"a"', []),
        (b"null", []),
        (b"", []),
    ],
)
def test_prompts(prompt: bytes, prompts: list[bytes]) -> None:
    assert [bytes(item) for item in split_prompts(Raw(prompt))] == prompts


def test_a_long_prompt_stays_raw() -> None:
    ids = b"[" + b"1," * 2**20 + b"1]"
    outline = read_outline(b'{"prompt": ' + ids + b"}")
    assert isinstance(outline.prompt, Raw)
    assert outline.prompts(TEXT) == []


@pytest.mark.parametrize(
    "body",
    [{"n": 2, "prompt": "x"}, {"prompt": ["a", "b"]}, {"prompt": [[1], [2]], "n": 1}, {"prompt": ["a"], "n": 2}],
)
def test_multiple_choices(body: Any) -> None:
    assert has_multiple_choices(TEXT, msgspec.json.encode(body))
    assert has_multiple_choices(CHAT, msgspec.json.encode(body)) is (body.get("n") == 2)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"}, {"prompt": ["x"]}, {"prompt": [1, 2]}, {"prompt": [[1, 2]]}, {"prompt": ["x", [1]]},
        {"prompt": []}, {"prompt": "x", "n": 1}, {"prompt": "x", "n": 1.5}, {"prompt": "x", "n": True},
        {"prompt": "x", "n": None}, [1], {"prompt": "x", "n": "2"}, {},
    ],
)  # fmt: skip
def test_one_choice_or_a_fault_that_the_engine_names(body: Any) -> None:
    assert not has_multiple_choices(TEXT, msgspec.json.encode(body))
    assert not has_multiple_choices(CHAT, b"[" * 100_000)


@pytest.mark.parametrize("embeds", [b"null", b"[]", b"[ \n]", b'""', b'["AA"]', b'"AA"'])
def test_embeddings(embeds: bytes) -> None:
    assert not read_outline(b"{}").has_prompt_embeds
    assert read_outline(b'{"prompt_embeds": ' + embeds + b"}").has_prompt_embeds is (b"AA" in embeds)


def test_what_may_be_true() -> None:
    assert all(may_be_true(value) for value in (True, 1, 1.0, "true", "YES", "1"))
    assert not any(may_be_true(value) for value in (False, None, 0, 2, "", "no", "2", [], [1], {"a": 1}))


@pytest.mark.parametrize(("model", "served"), [(None, 1), ("", 1), ("default", 1), ("m", 1), ("M", 0), ("other", 0)])
def test_names_of_the_model(model: str | None, served: int) -> None:
    assert names_served_model(model, "m") is bool(served)


def test_decoded_prompts() -> None:
    assert [unwrap_prompt(value) for value in (["a"], [[1, 2]], ["a", "b"], [1], "a", [])] == [
        "a", [1, 2], ["a", "b"], [1], "a", [],
    ]  # fmt: skip
    assert [is_list_of_prompts(value) for value in (["a", "b"], ["a", [1]], [1], "a", [])] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_a_seed_is_drawn_where_there_is_none() -> None:
    for body in (b'{"prompt": "x\\u2028"}', b'{"prompt": "x\\u2028", "seed": null}'):
        seeded, seed = with_seed(body, lambda: 41)
        assert seed == 41
        assert seeded == b'{"prompt":"x\\u2028","seed":41}'


@pytest.mark.parametrize(
    ("body", "seed"),
    [
        (b'{"seed": 7}', 7),
        (b'{"seed": -3}', -3),
        (b'{"seed": -1}', None),
        (b'{"seed": true}', None),
        (b'{"seed": "7"}', None),
        (b'{"seed": 7.0}', 7),
        (b'{"seed": 7.5}', None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
    ],
)
def test_a_seed_that_is_given_stays(body: bytes, seed: int | None) -> None:
    assert with_seed(body, lambda: 41) == (body, seed)


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        (b'{"stream": true}', True),
        (b'{"stream": false}', False),
        (b"{}", False),
        (b'{"stream": 1}', False),
        (b"{", False),
        (b"", False),
    ],
)
def test_a_body_that_may_be_wrong_streams_where_it_says_so(body: bytes, streams: bool) -> None:
    assert may_stream(body) is streams


def test_response_formats() -> None:
    assert response_format(b'{"response_format": {"type": "json_object"}, "prompt": "x"}') == {"type": "json_object"}
    for nothing in (b"{}", b'{"response_format": null}', b'["response_format"]', b'{"response_format"', b"\xff"):
        assert response_format(nothing) is None
