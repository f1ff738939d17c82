"""The table of parameters that are known and not served, and what is done with those that nobody knows."""

from __future__ import annotations

import time
from typing import Any

import h11
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipesd_core.llamacpp.openai import fields as request_fields
from pipesd_core.llamacpp.openai.request import parse
from pipesd_core.openai_parameters import (
    IGNORED_HEADER,
    SERVED,
    TABLE,
    Parameter,
    drop_unknown,
    ignored_header,
    ignored_list,
    is_known,
    refusal,
)
from pipesd_core.protocol.messages import MAX_IGNORED_CHARS, Endpoint, Opened, decode_gateway, encode
from pipesd_core.sampling.params import SamplingParams

CHAT, COMPLETIONS = Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS
OF_A_TYPE: dict[str, Any] = {
    "a string": "x", "true or false": True, "an integer": 7.0, "a number": 0.5, "an object": {"a": 1}, "a list": ["x"],
    "a string or a number": "5m",
}  # fmt: skip
"""A value of each type that a hint may have."""


def encoded(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)


def test_no_parameter_stands_there_twice_or_is_served() -> None:
    for endpoint in SERVED:
        names = [each.name for each in TABLE if each.endpoint in (None, endpoint)]
        assert len(set(names)) == len(names)
        assert not set(names) & SERVED[endpoint]
        for name in {each.name for each in TABLE}.union(*SERVED.values()) - SERVED[endpoint]:
            error = refusal(endpoint, name, [{}])
            assert name == "dry_sequence_breakers" if error is None else error.param == name


@pytest.mark.parametrize("endpoint", SERVED)
def test_what_is_called_served_is_what_the_parser_takes(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = set()
    take = request_fields.Fields.take

    def note(self: request_fields.Fields, name: str) -> Any:
        if "." not in name:  # of the body itself, not of a message
            taken.add(name)
        return take(self, name)

    monkeypatch.setattr(request_fields.Fields, "take", note)
    parse(
        endpoint,
        encoded(prompt="x") if endpoint is COMPLETIONS else encoded(messages=[{"role": "user", "content": "x"}]),
    )
    assert taken == SERVED[endpoint]


@pytest.mark.parametrize("endpoint", SERVED)
@pytest.mark.parametrize("parameter", TABLE, ids=lambda parameter: parameter.name)
def test_neutral_values_and_hints_are_accepted_and_change_nothing(parameter: Parameter, endpoint: Endpoint) -> None:
    if parameter.endpoint not in (None, endpoint):
        return
    asked: dict[str, Any] = (
        {"prompt": "x"} if endpoint is COMPLETIONS else {"messages": [{"role": "user", "content": "x"}]}
    )
    without = parse(endpoint, encoded(seed=1, **asked))
    values = [None, *parameter.neutral, *([OF_A_TYPE[parameter.hint]] if parameter.hint else [])]
    for value in values:
        assert parse(endpoint, encoded(seed=1, **asked, **{parameter.name: value})) == without


@pytest.mark.parametrize("parameter", TABLE, ids=lambda parameter: parameter.name)
def test_values_are_compared_strictly_by_type(parameter: Parameter) -> None:
    for value in (True, False, 0, 1, "0", "1", "none", -1, [], {}, 12345.5, ["x", 1], {"y": 2}):
        refused = parameter.refusal(value)
        fits = parameter.hint is not None and type(value) in {
            "a string": (str,), "true or false": (bool,), "an integer": (int,), "a number": (int, float),
            "an object": (dict,), "a list": (list,), "a string or a number": (str, int, float),
        }[parameter.hint]  # fmt: skip
        neutral = any(type(value) is type(one) and value == one for one in parameter.neutral)
        assert (refused is None) is (fits or neutral), value
        if refused is not None:
            assert refused.param == parameter.name
            assert parameter.name in refused.message
            assert parameter.hint is not None or "leave it out" in refused.message


def test_a_refusal_says_what_it_is_and_what_to_do() -> None:
    error = refusal(CHAT, "mirostat", 2)
    assert str(error) == "mirostat (another way of sampling) is not served here: leave it out or give 0, not 2"
    error = refusal(COMPLETIONS, "messages", [])
    assert str(error) == "messages is a parameter of /v1/chat/completions; leave it out"
    error = refusal(CHAT, "temprature", 1)
    assert "'temprature'" in str(error)
    assert "did you mean temperature?" in str(error)
    assert "--unknown-parameters ignore" in str(error)
    assert "did you mean" not in str(refusal(CHAT, "xyz", 1))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'"x"', b'{"x": "\xff', b'{"prompt": "x", "y": null}', b"{}"]
)
def test_where_nothing_is_dropped_the_body_stays(body: bytes) -> None:
    assert drop_unknown(body) == (body, ())


def test_many_of_them_take_no_longer_each() -> None:
    """A body may hold as many: with a search for each among all it took half a minute."""
    body = msgspec.json.encode({f"junk{number}": 1 for number in range(100_000)} | {"prompt": "x"})
    began = time.thread_time()
    assert drop_unknown(body)[0] == b'{"prompt":"x"}'
    assert parse(Endpoint.COMPLETIONS, body, "ignore").ignored
    assert time.thread_time() - began < 10


def test_what_nobody_knows_is_dropped_and_the_rest_stays_as_it_is() -> None:
    body = b'{"a b":1,"seed":9162071741130345789,"tools":[1e2],"x":{"y":[]},"prompt":"\\u00e9","max_tokens":null}'
    kept, dropped = drop_unknown(body)
    assert kept == b'{"seed":9162071741130345789,"tools":[1e2],"prompt":"\\u00e9","max_tokens":null}'
    assert dropped == ("a b", "x")


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["seed", "mirostat", "n"]), st.none() | st.integers()))
def test_engine_and_agent_ignore_the_same(body: dict[str, Any]) -> None:
    raw = msgspec.json.encode(
        {"prompt": "x", "seed": 1} | {name: value for name, value in body.items() if not is_known(name)}
    )
    kept, dropped = drop_unknown(raw)
    assert parse(COMPLETIONS, raw, "ignore").ignored == ignored_list(dropped)
    assert parse(COMPLETIONS, kept).ignored == ""


NAMES = st.text(max_size=100) | st.text("abc_", min_size=1, max_size=20)


@given(st.lists(NAMES, max_size=60))
def test_the_list_is_bounded_and_fits_into_a_header_and_a_message(names: list[str]) -> None:
    listed = ignored_list(names)
    assert len(listed) <= MAX_IGNORED_CHARS
    assert bool(listed) == bool(names)
    h11.Response(status_code=200, headers=[(name, value) for name, value in ignored_header(listed).items()])
    message = Opened(0, bytes(16), (), SamplingParams(), 1, (), "m", (), listed)
    assert decode_gateway(encode(message)) == message


def test_the_list() -> None:
    assert ignored_list(["a", "b.c", "ü,\r\n"]) == "a, b.c, %C3%BC%2C%0D%0A"
    assert ignored_list(["x" * 100]) == "x" * 64
    many = ignored_list(f"name_{i}" for i in range(100_000))
    assert many.endswith(", ...")
    assert many.startswith("name_0, name_1, ")
    assert ignored_header("") == ignored_header() == {}
    assert ignored_header("a", "", "b, c") == {IGNORED_HEADER: "a, b, c"}
