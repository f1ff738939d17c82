from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipesd_core import answer_format
from pipesd_core.errors import ApiError, EngineFailed, InvalidRequest, Overloaded, Unauthorized, Unavailable
from pipesd_core.protocol.messages import Endpoint

CHAT, COMPLETIONS, RESPONSES, MESSAGES = Endpoint


def test_events_of_chats_have_no_names() -> None:
    assert answer_format.event(CHAT, b'{"type":"x"}') == b'data: {"type":"x"}\n\n'
    assert answer_format.event(COMPLETIONS, b"{}") == b"data: {}\n\n"


@pytest.mark.parametrize("endpoint", [RESPONSES, MESSAGES])
def test_events_of_the_others_have_their_type_as_name(endpoint: Endpoint) -> None:
    payload = '{"type":"message_stop","x":"\u2028"}'.encode()
    assert answer_format.event(endpoint, payload) == (
        b'event: message_stop\ndata: {"type":"message_stop","x":"\\u2028"}\n\n'
    )


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        *(("response.completed", True), ("response.incomplete", True), ("message_stop", True), ("error", True)),
        *(("response.created", False), ("message_delta", False), (None, False), (4, False)),
    ],
)
def test_the_last_event(kind: Any, last: bool) -> None:
    payload = msgspec.json.encode({"type": kind})
    assert answer_format.is_last(RESPONSES, payload) is last
    assert answer_format.ends_stream(payload) is last
    assert not answer_format.is_last(CHAT, payload)


def test_the_last_event_of_chats() -> None:
    assert answer_format.ends_stream(b"[DONE]")
    assert answer_format.ends_stream(b'{"error":{}}')
    assert not answer_format.ends_stream(b'{"choices":[]}')


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "invalid_request_error"),
        (Unauthorized("no"), "authentication_error"),
        (Overloaded("no"), "rate_limit_error"),
        (Unavailable("no"), "overloaded_error"),
        (EngineFailed("no"), "api_error"),
    ],
)
def test_errors_of_messages_are_anthropic_s(path: str, error: ApiError, kind: str) -> None:
    assert answer_format.error_body(path, error) == {"type": "error", "error": {"type": kind, "message": "no"}}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messagesx", "/v1/models", ""])
def test_errors_of_all_others_are_openai_s(path: str) -> None:
    error = InvalidRequest("no", param="x")
    assert answer_format.error_body(path, error) == error.body()


def test_error_events() -> None:
    error = InvalidRequest("no", param="x")
    assert answer_format.error_event(CHAT, error) == b"data: " + msgspec.json.encode(error.body()) + b"\n\n"
    head, data, *_ = answer_format.error_event(MESSAGES, error).split(b"\n")
    assert (head, data) == (
        b"event: error",
        b'data: {"type":"error","error":{"type":"invalid_request_error","message":"no"}}',
    )
    before = b'data: {"sequence_number":3}\n\ndata: {"sequence_number":4}\n\n'
    head, data, *_ = answer_format.error_event(RESPONSES, error, before).split(b"\n")
    body = msgspec.json.decode(data.removeprefix(b"data: "))
    assert head == b"event: error"
    assert (body["sequence_number"], body["message"], body["param"], body["code"]) == (5, "no", "x", None)
    assert body["error"] == error.body()["error"]


def test_counts_are_found_wherever_they_are() -> None:
    chat = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    whole = {"usage": {"input_tokens": 3, "output_tokens": 4}}
    completed = {"type": "response.completed", "response": whole}
    both = {"usage": {"prompt_tokens": 1, "input_tokens": 3, "output_tokens": 4}}
    with_counts: list[dict[str, Any]] = [chat, whole, completed, both]
    for payload in with_counts:
        usage = answer_format.usage_in(payload)
        assert usage is not None
        assert answer_format.counts_of(usage) == (3, 4)
    assert answer_format.body_in(completed) is whole
    without: list[dict[str, Any]] = [{"usage": None}, {"message": whole}, {"response": {"usage": None}}]
    assert not any(map(answer_format.usage_in, without))
