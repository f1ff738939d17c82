"""What errors look like to a client of the OpenAI API."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from pipesd_core import errors
from pipesd_core.errors import (
    ApiError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    MalformedMessage,
    ModelNotFound,
    OutOfState,
    Overloaded,
    PipeSDError,
    ProtocolError,
    ShuttingDown,
    Unauthorized,
    Unavailable,
    UnknownVersion,
    VocabularyMismatch,
    error_message_from_body,
)

ROOT: Final = Path(__file__).parents[2]
EVERY = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]


@pytest.mark.parametrize("error", EVERY)
def test_one_base_catches_all(error: type[Exception]) -> None:
    assert issubclass(error, PipeSDError)
    assert str(error("what to do")) == "what to do"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InvalidRequest, 400, "invalid_request_error", None),
        (ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded"),
        (Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
        (ModelNotFound, 404, "invalid_request_error", "model_not_found"),
        (VocabularyMismatch, 409, "invalid_request_error", "vocabulary_mismatch"),
        (Overloaded, 429, "rate_limit_error", "overloaded"),
        (EngineFailed, 500, "server_error", "engine_failed"),
        (Unavailable, 503, "server_error", "unavailable"),
    ],
)
def test_status_and_body_are_openai_s(error: type[ApiError], status: int, kind: str, code: str | None) -> None:
    raised = error("top_p must be above 0")
    assert raised.status == status
    assert raised.body() == {"error": {"message": "top_p must be above 0", "type": kind, "param": None, "code": code}}


def test_the_parameter_at_fault_is_named() -> None:
    assert InvalidRequest("no", param="top_p").body()["error"]["param"] == "top_p"


def test_a_server_that_cannot_says_when_to_come_back() -> None:
    for error, least, most in (
        (Overloaded("full", retry_after_s=7.0), 7, 11),
        (Overloaded("full", retry_after_s=0.01), 1, 2),
        (Unavailable("down"), 1, 2),
        (ShuttingDown("ends"), 5, 8),
    ):
        assert least <= int(error.headers()["retry-after"]) <= most
        assert least * 1000 <= int(error.headers()["retry-after-ms"]) <= most * 1000
    assert InvalidRequest("never").headers() == {}


def test_protocol_errors_have_codes_of_their_own() -> None:
    codes = [error.code for error in (ProtocolError, MalformedMessage, UnknownVersion, OutOfState)]
    assert codes == ["protocol_error", "malformed_message", "unknown_version", "out_of_state"]
    assert not any(issubclass(error, ApiError) for error in (ProtocolError, MalformedMessage, OutOfState))


def test_the_message_of_an_error_body() -> None:
    assert error_message_from_body(b'{"error": {"message": "drains", "code": null}}') == "drains"
    assert error_message_from_body(bytearray(b'{"error": {"message": "drains"}}')) == "drains"
    assert error_message_from_body(InvalidRequest("top_p must be above 0").body()) == "top_p must be above 0"


@pytest.mark.parametrize(
    "body", [None, b"", b"<html>", b"[]", b'{"error": 1}', b'{"error": {"message": 1}}', b"\xff", {}]
)
def test_what_is_no_error_body_has_no_message(body: bytes | dict[str, object] | None) -> None:
    assert error_message_from_body(body) == ""


SOURCES = [
    path for top in ("core", "gateway", "edge_agent", "vllm_plugin") for path in (ROOT / top).rglob("src/**/*.py")
]


def test_every_refusal_for_want_of_room_estimates_when_there_is_some() -> None:
    """No number that is written down: that of the fake engine apart, which has no clock."""
    refusals, constant = 0, []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Overloaded":
                refusals += 1
                (given,) = [each.value for each in node.keywords if each.arg == "retry_after_s"] or [ast.Constant(1)]
                if isinstance(given, ast.Constant) and path.name != "fake.py":
                    constant.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert refusals > 7
    assert constant == []


def test_one_module_says_when_to_come_back() -> None:
    """The others only let it through: what a gateway answered, to web pages."""
    writers = {path.name for path in SOURCES if re.search(r'"retry-after(-ms)?"\s*:', path.read_text("utf-8"))}
    assert writers == {"retry_after.py"}
