"""Every error of PipeSD, with its HTTP status and OpenAI-shaped body.

PipeSDError
├── ApiError                     has an HTTP status and an OpenAI-shaped body
│   ├── InvalidRequest           400  the request is wrong: the message names field, limit and value
│   │   └── ContextLengthExceeded
│   ├── Unauthorized             401
│   ├── ModelNotFound            404
│   ├── VocabularyMismatch       409  the drafter's vocabulary is not the target's
│   ├── SessionUnknown           410  there is no such session to resume (any more)
│   ├── Overloaded               429  with retry-after
│   ├── EngineFailed             500  the engine broke; the session is lost
│   └── Unavailable              503  the cloud, or the engine, cannot be reached; with retry-after
│       └── ShuttingDown
├── ProtocolError                the other end broke pipesd.v1; has a short machine-readable code
│   ├── MalformedMessage
│   ├── UnknownVersion
│   └── OutOfState
├── ModelLoadError               a model file is missing, damaged or not usable
└── ConfigError                  a configuration file or flag is wrong
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from pipesd_core import retry_after


class PipeSDError(Exception):
    """Base of all errors that PipeSD raises on purpose."""


class ApiError(PipeSDError):
    """An error that a client of the OpenAI API gets to see.

    retry_after_s: seconds after which the request may be accepted; 0: trying again would change nothing.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retry_after_s: float = 0

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body of the OpenAI API for this error."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """The HTTP headers for this error; each client of one error is told another time."""
        return retry_after.headers(self.retry_after_s) if self.retry_after_s else {}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class Unauthorized(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer"}  # RFC 9110, 15.5.2: a 401 says how to authenticate


class ModelNotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class VocabularyMismatch(ApiError):
    status = 409
    type = "invalid_request_error"
    code = "vocabulary_mismatch"


class SessionUnknown(ApiError):
    status = 410
    code = "session_unknown"


class Overloaded(ApiError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, retry_after_s)


class EngineFailed(ApiError):
    code = "engine_failed"


class Unavailable(ApiError):
    status = 503
    type = "server_error"
    code = "unavailable"
    retry_after_s: float = 1


class ShuttingDown(Unavailable):
    """This server ends and begins nothing new."""

    retry_after_s: float = 5
    """Time after which another instance has replaced this one, or this one is back."""


class ProtocolError(PipeSDError):
    """The other end broke the protocol. Only the session, or the connection, that did it is affected."""

    code: ClassVar[str] = "protocol_error"


class MalformedMessage(ProtocolError):
    code = "malformed_message"


class UnknownVersion(ProtocolError):
    code = "unknown_version"


class OutOfState(ProtocolError):
    code = "out_of_state"


class ModelLoadError(PipeSDError):
    """A model file is missing, damaged, or of a kind that cannot be used."""


class DecodeError(PipeSDError):
    """llama.cpp refused or failed to run the model over some rows; or a model or context was used after `close`."""


class ConfigError(PipeSDError):
    """A configuration file, an environment variable or a flag is wrong."""


class _Error(Struct):
    message: str


class _ErrorBody(Struct):
    error: _Error


def error_message_from_body(body: bytes | bytearray | dict[str, Any] | None) -> str:
    """The message of an OpenAI-shaped error body, raw or decoded; empty if it is none, as of a proxy."""
    try:
        if isinstance(body, dict):
            return msgspec.convert(body, _ErrorBody).error.message
        return msgspec.json.decode(body or b"", type=_ErrorBody).error.message
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
