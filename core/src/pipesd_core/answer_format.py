"""How the routes of answers say things: their events, which of those is the last, their errors, their counts. Pure.

A payload is the JSON of an event, or a whole answer. Chat and text completions end with `[DONE]`; the others name their
events, by the `type` in them, and one of these is the last. Messages have Anthropic's errors, all others OpenAI's.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_core import sse
from pipesd_core.errors import ApiError
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.protocol.messages import Endpoint

DONE: Final = b"data: [DONE]\n\n"
PATHS: Final = {
    Endpoint.CHAT_COMPLETIONS: "/v1/chat/completions",
    Endpoint.COMPLETIONS: "/v1/completions",
    Endpoint.RESPONSES: "/v1/responses",
    Endpoint.MESSAGES: "/v1/messages",
}
_LAST: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "message_stop", "error"))
_COUNTS: Final = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_NUMBER: Final = re.compile(rb'"sequence_number":\s*([0-9]{1,9})')
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class _Typed(Struct):
    type: Any = None


def has_named_events(endpoint: Endpoint) -> bool:
    """Whether the events of a route have names, and no `[DONE]` after them."""
    return endpoint in (Endpoint.RESPONSES, Endpoint.MESSAGES)


def event(endpoint: Endpoint, payload: bytes) -> bytes:
    """A payload as an event of the route's streams."""
    if not has_named_events(endpoint):
        return sse.event(payload)
    return b"event: " + _type_of(payload).encode() + b"\n" + sse.event(payload)


def is_last(endpoint: Endpoint, payload: bytes) -> bool:
    """Whether a stream ends with this payload; never so where it ends with `[DONE]`."""
    return has_named_events(endpoint) and _type_of(payload) in _LAST


def ends_stream(data: bytes) -> bool:
    """Whether the data of an event, of any route, tells the client that no more follows."""
    return data == b"[DONE]" or data.startswith(b'{"error"') or _type_of(data) in _LAST


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """The JSON of an error, as the route at `path` has it."""
    if not (path == PATHS[Endpoint.MESSAGES] or path.startswith(f"{PATHS[Endpoint.MESSAGES]}/")):
        return error.body()
    known = _ANTHROPIC_TYPES.get(error.status)
    kind = known or ("invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.body()["error"]["message"]}}


def error_event(endpoint: Endpoint, error: ApiError, after: bytes = b"") -> bytes:
    """The last event of a stream that cannot be completed. after: the event before it."""
    body = error_body(PATHS[endpoint], error)
    if endpoint is Endpoint.RESPONSES:
        found = _NUMBER.findall(after)
        inner = body["error"]
        # OpenAI's own has no `error` in it; its SDK raises by that.
        body = {"type": "error", "sequence_number": int(found[-1]) + 1 if found else 0} | body
        body |= {name: inner.get(name) for name in ("code", "message", "param")}
    return event(endpoint, msgspec.json.encode(body))


def body_in(payload: dict[str, Any]) -> dict[str, Any]:
    """The part of a decoded payload that `usage`, and what is said beside it, belongs to."""
    response = payload.get("response")
    return response if isinstance(response, dict) else payload


def usage_in(payload: dict[str, Any]) -> dict[str, Any] | None:
    """The counts of the whole answer in a decoded payload; None: it has none."""
    usage = body_in(payload).get("usage")
    if not isinstance(usage, dict) or not any({prompt, output} <= usage.keys() for prompt, output in _COUNTS):
        return None
    return usage


def counts_of(usage: dict[str, Any]) -> tuple[int, int]:
    """The tokens of the prompt, and those of the output, in a usage object that `usage_in` has found."""
    prompt, output = next(names for names in _COUNTS if usage.keys() >= set(names))
    return usage[prompt], usage[output]


def _type_of(payload: bytes) -> str:
    try:
        kind = msgspec.json.decode(payload, type=_Typed).type
    except NOT_JSON:
        return ""
    return kind if isinstance(kind, str) and kind.isascii() and kind.isprintable() else ""
