"""The messages of a chat, checked: histories with calls of functions and their results included."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.fields import Fields
from pipesd_core.openai_body import NOT_JSON
from pipesd_core.openai_values import show, wrong

ROLES: Final = ("system", "developer", "user", "assistant", "tool")

_PARTS: Final = {
    "image_url": "an image",
    "input_image": "an image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "a video",
    "file": "a file",
    "refusal": "a refusal",
}
"""What a part of a message holds, by its type."""
PART_HINTS: Final = frozenset(("prompt_cache_breakpoint", "cache_control"))
"""Keys of a text part that say what to cache."""
_OF_ONE_ROLE: Final = {"tool_calls": "assistant", "reasoning_content": "assistant", "tool_call_id": "tool"}
"""Keys that messages of one role only may have."""

_STRINGS: Final = ("name", "tool_call_id", "reasoning_content")


class ToolCall(Struct, frozen=True):
    """A call that an earlier answer has made. arguments: decoded."""

    id: str
    name: str
    arguments: dict[str, Any]


class Message(Struct, frozen=True):
    """One message of a chat; `content` is plain text. reasoning_content: thoughts that came before it."""

    role: str
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None


def read_messages(value: Any) -> tuple[Message, ...]:
    """The messages in a decoded `messages`. Raises InvalidRequest that names the place."""
    if not isinstance(value, list) or not value:
        raise wrong("messages", "a list of at least one message", value)
    return tuple(_message(f"messages[{i}]", item) for i, item in enumerate(value))


def _message(where: str, value: Any) -> Message:
    if not isinstance(value, dict):
        raise wrong(where, "an object with role and content", value)
    role = value.get("role")
    if role not in ROLES:
        raise wrong(f"{where}.role", "one of " + ", ".join(ROLES), role)
    given = {name: item for name, item in value.items() if name not in ("role", "content")}
    given = {name: item for name, item in given.items() if item != [] or name in _STRINGS}  # the SDK's way of "none"
    fields = Fields({f"{where}.{name[:64]}": item for name, item in given.items()})
    for key, only in _OF_ONE_ROLE.items():
        if role != only and given.get(key) is not None:
            param = f"{where}.{key}"
            raise InvalidRequest(f"{param} belongs to messages of the role {only}, not {role}", param=param)
    name, thoughts = fields.string(f"{where}.name"), fields.string(f"{where}.reasoning_content")
    calls, answered = fields.take(f"{where}.tool_calls"), fields.string(f"{where}.tool_call_id")
    for param in fields.rest():  # before the content, which may be missing because of that
        raise InvalidRequest(f"{param} is not served here; leave it out", param=param)
    if role == "tool" and answered is None:
        raise wrong(f"{where}.tool_call_id", "a string: the id of the call with this result", None)
    called = _calls(f"{where}.tool_calls", calls) if calls is not None else ()
    content = value.get("content")
    return Message(
        role=role,
        content="" if called and content is None else _content(f"{where}.content", content, given="content" in value),
        name=name,
        tool_calls=called,
        tool_call_id=answered,
        reasoning_content=thoughts,
    )


def _calls(where: str, value: Any) -> tuple[ToolCall, ...]:
    if not isinstance(value, list):
        raise wrong(where, "a list of calls", value)
    return tuple(_call(f"{where}[{i}]", item) for i, item in enumerate(value))


def _call(where: str, value: Any) -> ToolCall:
    if not isinstance(value, dict):
        raise wrong(where, "an object with id, type and function", value)
    fields = Fields({f"{where}.{name[:64]}": item for name, item in value.items()})
    kind, identity = fields.take(f"{where}.type"), fields.string(f"{where}.id")
    called = fields.take(f"{where}.function")
    fields.integer(f"{where}.index")  # clients that joined a stream leave it there
    fields.refuse_rest()
    if kind not in (None, "function"):
        raise wrong(f"{where}.type", "function", kind)
    if identity is None:
        raise wrong(f"{where}.id", "a string", None)
    if not isinstance(called, dict):
        raise wrong(f"{where}.function", "an object with name and arguments", called)
    function = Fields({f"{where}.function.{name[:64]}": item for name, item in called.items()})
    name, arguments = function.string(f"{where}.function.name"), function.string(f"{where}.function.arguments")
    function.take(f"{where}.function.parsed_arguments")  # the same again: the OpenAI SDK's `parse` leaves it there
    function.refuse_rest()
    if not name:
        raise wrong(f"{where}.function.name", "the name of a function", name)
    return ToolCall(identity, name, _arguments(f"{where}.function.arguments", arguments))


def _arguments(where: str, value: str | None) -> dict[str, Any]:
    """The arguments of a call, decoded; none at all are an empty text to some clients."""
    if not value:
        return {}
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except NOT_JSON:
        raise wrong(where, "a JSON object in a string", value) from None


def _content(where: str, value: Any, *, given: bool) -> str:
    """Text, or text parts; the parts are joined by newlines (as vLLM does for templates that take plain text).

    given: the message has the key, perhaps with a null.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        is_ = f"is {show(value)}" if given else "is missing"
        raise InvalidRequest(f"{where} must be a string or a list of at least one text part, but {is_}", param=where)
    return "\n".join(_text(f"{where}[{i}]", part) for i, part in enumerate(value))


def _text(where: str, part: Any) -> str:
    """The text of a part of a message."""
    if not isinstance(part, dict):
        raise wrong(where, "a text part", part)
    kind = part.get("type")
    if kind != "text":
        what = f"{_PARTS[kind]} ({show(kind)})" if isinstance(kind, str) and kind in _PARTS else f"of type {show(kind)}"
        raise InvalidRequest(f"{where} is {what}; text parts only are read here: leave it out", param=where)
    for name in part:
        if name not in ("type", "text") and name not in PART_HINTS and part[name] is not None:
            param = f"{where}.{name[:64]}"
            raise InvalidRequest(f"{param} is not served here; leave it out", param=param)
    text = part.get("text")
    if not isinstance(text, str):
        raise wrong(f"{where}.text", "a string", text)
    return text
