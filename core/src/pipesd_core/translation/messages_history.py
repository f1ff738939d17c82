"""The messages of a request of Anthropic's Messages API, as those of a chat."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import show, wrong
from pipesd_core.translation.translation import given, refuse_rest

ROLES: Final = ("user", "assistant", "system")
_LABELS: Final = ("citations", "caller")
"""Keys of a block that say where it comes from."""


class ChatHistory:
    """The messages so far, and where in the request each of them comes from."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.names: list[tuple[str, str]] = []

    def instruct(self, system: Any) -> None:
        """Begin with the parameter `system`. Raises InvalidRequest."""
        if isinstance(system, str):
            self._add("system", {"role": "system", "content": system})
        elif isinstance(system, list):
            if system:
                self._add("system", {"role": "system", "content": _texts("system", system)}, "system")
        else:
            raise wrong("system", "a text or a list of text blocks", system)

    def take(self, value: Any) -> None:
        """Take the parameter `messages`. Raises InvalidRequest."""
        if not isinstance(value, list) or not value:
            raise wrong("messages", "a list of at least one message", value)
        for number, message in enumerate(value):
            where = f"messages[{number}]"
            if not isinstance(message, dict):
                raise wrong(where, "an object with role and content", message)
            self._take_message(where, given(message))
        if self.messages and self.messages[-1]["role"] == "assistant":
            where = f"messages[{len(value) - 1}]"
            raise InvalidRequest(
                f"{where} is the assistant's, to be gone on with; that is not served here: end with one of the user",
                param=where,
            )

    def _take_message(self, where: str, message: dict[str, Any]) -> None:
        role, content = message.pop("role", None), message.pop("content", None)
        refuse_rest(where, message)
        if role not in ROLES:
            raise wrong(f"{where}.role", "one of " + ", ".join(ROLES), role)
        if isinstance(content, str):
            self._add(where, {"role": role, "content": content})
            return
        where = f"{where}.content"
        if not isinstance(content, list) or not content:
            raise wrong(where, "a text or a list of at least one block", content)
        if role == "assistant":
            self._take_answer(where, content)
        else:
            self._take_blocks(where, role, content)

    def _take_blocks(self, where: str, role: str, blocks: list[Any]) -> None:
        parts: list[dict[str, Any]] = []
        from_: list[str] = []

        def flush() -> None:
            if parts:
                self._add_parts(where, {"role": role}, list(parts), list(from_))
                parts.clear()
                from_.clear()

        for number, value in enumerate(blocks):
            at = f"{where}[{number}]"
            kind, block = _block(at, value)
            if kind == "tool_result":
                flush()
                self._take_result(at, block)
            else:
                parts.append(_part(at, kind, block))
                from_.append(at)
        flush()

    def _take_result(self, where: str, block: dict[str, Any]) -> None:
        call, content = block.pop("tool_use_id", None), block.pop("content", "")
        if not isinstance(failed := block.pop("is_error", False), bool):  # the content says what failed
            raise wrong(f"{where}.is_error", "true or false", failed)
        refuse_rest(where, block)
        message = {"role": "tool", "tool_call_id": _string(f"{where}.tool_use_id", call)}
        at = f"{where}.content"
        if isinstance(content, list):
            content = _texts(at, content) if content else ""
        elif not isinstance(content, str):
            raise wrong(at, "a text or a list of blocks", content)
        self._add(where, message | {"content": content}, at)

    def _take_answer(self, where: str, blocks: list[Any]) -> None:
        """Take a message of the assistant: one of a chat has text, thoughts and calls apart."""
        parts: list[dict[str, Any]] = []
        from_: list[str] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for number, value in enumerate(blocks):
            at = f"{where}[{number}]"
            kind, block = _block(at, value)
            if kind == "tool_use":
                self.names.append((f"messages[{len(self.messages)}].tool_calls[{len(calls)}]", at))
                calls.append(_call(at, block))
            elif kind == "thinking":
                block.pop("signature", None)
                thoughts.append(_string(f"{at}.thinking", block.pop("thinking", None)))
                refuse_rest(at, block)
            else:
                parts.append(_part(at, kind, block))
                from_.append(at)
        message: dict[str, Any] = {"role": "assistant"}
        if thoughts:
            message["reasoning_content"] = "\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        if parts:
            self._add_parts(where, message, parts, from_)
        else:
            self._add(where, message | {"content": None if calls else ""})

    def _add_parts(self, where: str, message: dict[str, Any], parts: list[dict[str, Any]], from_: list[str]) -> None:
        at = len(self.messages)
        self.names += [(f"messages[{at}].content[{number}]", place) for number, place in enumerate(from_)]
        self._add(where, message | {"content": parts}, where)

    def _add(self, where: str, message: dict[str, Any], content: str = "") -> None:
        self.names.append((f"messages[{len(self.messages)}]", where))
        if content:
            self.names.append((f"messages[{len(self.messages)}].content", content))
        self.messages.append(message)


def _block(where: str, value: Any) -> tuple[Any, dict[str, Any]]:
    """The type of a block, and the rest of it without what labels it."""
    if not isinstance(value, dict):
        raise wrong(where, "a block (an object)", value)
    block = given(value)
    kind = block.pop("type", None)
    block.pop("cache_control", None)  # what to cache: what can be is
    for name in _LABELS:
        block.pop(name, None)
    return kind, block


def _part(where: str, kind: Any, block: dict[str, Any]) -> dict[str, Any]:
    """A block as a part of a chat's message. What is no text is refused by its type."""
    if kind != "text":
        raise InvalidRequest(f"{where} is of type {show(kind)}, which is not read here; leave it out", param=where)
    text = block.pop("text", None)
    refuse_rest(where, block)
    return {"type": "text", "text": _string(f"{where}.text", text)}


def _texts(where: str, blocks: list[Any]) -> list[dict[str, Any]]:
    places = [f"{where}[{number}]" for number in range(len(blocks))]
    return [_part(at, *_block(at, block)) for at, block in zip(places, blocks, strict=True)]


def _call(where: str, block: dict[str, Any]) -> dict[str, Any]:
    call, name, arguments = block.pop("id", None), block.pop("name", None), block.pop("input", None)
    refuse_rest(where, block)
    if not isinstance(arguments, dict):
        raise wrong(f"{where}.input", "an object", arguments)
    function = {"name": _string(f"{where}.name", name), "arguments": msgspec.json.encode(arguments).decode()}
    return {"id": _string(f"{where}.id", call), "type": "function", "function": function}


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(where, "a string", value)
    return value
