"""The input of a Responses request, as the messages of a chat."""

from __future__ import annotations

from typing import Any, Final

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import show, wrong
from pipesd_core.translation.translation import given, refuse_rest

_TEXT: Final = ("input_text", "output_text", "text", "reasoning_text")
_ECHOED: Final = ("annotations", "logprobs")
"""Keys of a part of an earlier answer that say something about its text."""
_PART_HINTS: Final = ("prompt_cache_breakpoint",)
_STATUS: Final = ("id", "status", "phase")
"""Keys of an item that label it."""


class InputMessages:
    """The messages so far, and where in the request each of them comes from."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.names: list[tuple[str, str]] = [("messages", "input")]
        self._thoughts: list[str] = []
        """The texts of reasoning items that the next message of the assistant belongs to."""
        self._calls_of: dict[str, Any] | None = None
        """The assistant's message that a function call belongs to; None: to a new one."""

    def instruct(self, instructions: Any) -> None:
        """Begin with the instructions."""
        if not isinstance(instructions, str):
            raise wrong("instructions", "a string", instructions)
        self._add("instructions", {"role": "system", "content": instructions})

    def take(self, value: Any) -> None:
        """Take the parameter `input`. Raises InvalidRequest."""
        if isinstance(value, str):
            self._add("input", {"role": "user", "content": value})
            return
        if not isinstance(value, list) or not value:
            raise wrong("input", "a text or a list of at least one item", value)
        for number, item in enumerate(value):
            where = f"input[{number}]"
            if not isinstance(item, dict):
                raise wrong(where, "an item (an object)", item)
            self._take_item(where, given(item))
        if self._thoughts:
            raise InvalidRequest(
                f"input[{len(value) - 1}] is a reasoning item that nothing of the assistant's follows; leave it out",
                param=f"input[{len(value) - 1}]",
            )

    def _take_item(self, where: str, item: dict[str, Any]) -> None:
        kind = item.pop("type", "message")
        for name in _STATUS:
            item.pop(name, None)
        if kind == "message":
            self._take_message(where, item)
        elif kind == "function_call":
            self._take_call(where, item)
        elif kind == "function_call_output":
            self._take_output(where, item)
        elif kind == "reasoning":
            self._take_reasoning(where, item)
        elif kind == "item_reference":
            raise InvalidRequest(f"{where} refers to a stored item; nothing is kept here: send it again", param=where)
        else:
            raise InvalidRequest(
                f"{where} is of type {show(kind)}, which is not served here; leave it out", param=where
            )

    def _take_message(self, where: str, item: dict[str, Any]) -> None:
        message: dict[str, Any] = {"role": item.pop("role", None)}
        if "content" in item:
            message["content"] = _content(f"{where}.content", item.pop("content"))
        refuse_rest(where, item)
        self._add(where, message)

    def _take_call(self, where: str, item: dict[str, Any]) -> None:
        call = {
            "id": _string(f"{where}.call_id", item.pop("call_id", None)),
            "type": "function",
            "function": {
                "name": _string(f"{where}.name", item.pop("name", None)),
                "arguments": _string(f"{where}.arguments", item.pop("arguments", None)),
            },
        }
        refuse_rest(where, item)
        if self._calls_of is None or self._thoughts:
            self._add(where, {"role": "assistant", "content": None})
        assert self._calls_of is not None
        calls = self._calls_of.setdefault("tool_calls", [])
        self.names.append((f"messages[{len(self.messages) - 1}].tool_calls[{len(calls)}]", where))
        calls.append(call)

    def _take_output(self, where: str, item: dict[str, Any]) -> None:
        call, output = item.pop("call_id", None), item.pop("output", None)
        item.pop("name", None)
        refuse_rest(where, item)
        if output is None:
            raise wrong(f"{where}.output", "a string or a list of text parts", output)
        message = {"role": "tool", "tool_call_id": _string(f"{where}.call_id", call)}
        self._add(where, message | {"content": _content(f"{where}.output", output)}, content=f"{where}.output")

    def _take_reasoning(self, where: str, item: dict[str, Any]) -> None:
        for name, instead in (("encrypted_content", "it can be read by who wrote it alone"), ("summary", "")):
            if item.pop(name, None):
                because = f": {instead}" if instead else ": thoughts are read in content"
                raise InvalidRequest(f"{where}.{name} is not read here{because}; leave it out", param=f"{where}.{name}")
        content = item.pop("content", [])
        refuse_rest(where, item)
        if not isinstance(content, list):
            raise wrong(f"{where}.content", "a list of parts of type reasoning_text", content)
        for number, part in enumerate(content):
            place = f"{where}.content[{number}]"
            read = _part(place, part)
            if read["type"] != "text":
                raise wrong(f"{place}.type", "reasoning_text", read["type"])
            self._thoughts.append(_string(f"{place}.text", read["text"]))

    def _add(self, where: str, message: dict[str, Any], content: str = "") -> None:
        if self._thoughts:
            if message["role"] != "assistant":
                raise InvalidRequest(f"{where} follows a reasoning item, but is not the assistant's", param=where)
            message["reasoning_content"] = "\n".join(self._thoughts)
            self._thoughts = []
        self.names.append((f"messages[{len(self.messages)}]", where))
        if content:
            self.names.append((f"messages[{len(self.messages)}].content", content))
        self.messages.append(message)
        self._calls_of = message if message["role"] == "assistant" else None


def _content(where: str, value: Any) -> Any:
    """Content as a chat has it; what is no text goes there with its type, and is refused as it is in a chat."""
    if not isinstance(value, list):
        return value
    return [_part(f"{where}[{number}]", part) for number, part in enumerate(value)]


def _part(where: str, part: Any) -> Any:
    if not isinstance(part, dict):
        raise wrong(where, "a part (an object)", part)
    left = given(part)
    kind = left.pop("type", None)
    if kind not in _TEXT:
        return {"type": kind}
    for name in _ECHOED:
        left.pop(name, None)
    text, hints = left.pop("text", None), {name: left.pop(name) for name in _PART_HINTS if name in left}
    refuse_rest(where, left)
    return {"type": "text", "text": text} | hints


def _string(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(where, "a string", value)
    return value
