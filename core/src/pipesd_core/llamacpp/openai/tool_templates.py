"""What a chat template makes of tools, calls and their results, and how models are told whose template knows none.

What a template teaches is found by having it write a made-up chat: the format of calls is the one whose parser finds
the call again in what was written. So a format that is only alike is not taken for a known one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import msgspec

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.openai.chat_messages import Message, ToolCall
from pipesd_core.llamacpp.openai.chat_template import ChatTemplate
from pipesd_core.llamacpp.openai.tool_calls import TAUGHT, CallFormat, CallParser, CallRules
from pipesd_core.llamacpp.openai.tools import Tool

_ASKED: Final = Message("user", "sample question")
_TOOL: Final = Tool(
    "sample_function",
    "sample description",
    {"type": "object", "properties": {"sample_argument": {"type": "string"}}, "required": ["sample_argument"]},
)
_CALL: Final = ToolCall("123456789", _TOOL.name, {"sample_argument": "sample value"})
_CALLED: Final = Message("assistant", "", tool_calls=(_CALL,))
_RESULT: Final = Message("tool", "sample result", name=_TOOL.name, tool_call_id=_CALL.id)
_NOTICE: Final = """You can call these functions, each with its JSON schema:
{tools}
A call is a JSON object with the function's name and its arguments, {{"name": ..., "arguments": {{...}}}}; \
several calls are a list of them."""


class ToolTemplate:
    """A chat template that may have to write tools.

    Attributes:
        form: the known format of calls that the template teaches; None: none, or another one.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        asked, called = self._try([_ASKED], [_TOOL]), self._try([_ASKED, _CALLED, _RESULT], [_TOOL])
        written = _what_follows(asked, called)
        self._writes_tools = _TOOL.description is not None and _TOOL.description in asked
        self._writes_calls = all(part in written for part in (_TOOL.name, *_CALL.arguments, "sample value"))
        self._writes_system = "sample system" in self._try([Message("system", "sample system"), _ASKED], [])
        self.form = _format_of(written) if self._writes_tools else None

    def render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The prompt text of a chat whose answer may call `tools`. Raises InvalidRequest, see `ChatTemplate.render`."""
        if not self._writes_calls:
            messages = [_with_calls_as_text(message) for message in messages]
        if tools and not self._writes_tools:
            messages = self._with_tools_as_text(messages, tools)
        return self._template.render(messages, tools)

    def _with_tools_as_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        notice = _NOTICE.format(tools="\n".join(_json(tool.to_json()["function"]) for tool in tools))
        first, *rest = messages
        if self._writes_system and first.role not in ("system", "developer"):
            return [Message("system", notice), *messages]
        both = [first.content, notice] if self._writes_system else [notice, first.content]
        return [msgspec.structs.replace(first, content="\n\n".join(both)), *rest]

    def _try(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        try:
            return self._template.render(messages, tools)
        except InvalidRequest:
            return ""


def _what_follows(begun: str, text: str) -> str:
    """The part of a text from the first character on that is not as in another one."""
    same = next((at for at, (one, other) in enumerate(zip(begun, text, strict=False)) if one != other), len(begun))
    return text[same:]


def _format_of(written: str) -> CallFormat | None:
    """The known format in which the sample call is written in this text."""
    for form in TAUGHT:
        parser = CallParser(CallRules(form, (_TOOL.name,)))
        parser.push(written)
        parser.finish()
        calls = parser.take().calls
        if len(calls) == 1 and parser.called and _is_json(calls[0].arguments, _CALL.arguments):
            return form
    return None


def _is_json(text: str, value: object) -> bool:
    try:
        return bool(json.loads(text) == value)
    except ValueError:
        return False


def _with_calls_as_text(message: Message) -> Message:
    """A message with its calls in its content, in the plain format."""
    if not message.tool_calls:
        return message
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    written = _json(calls[0] if len(calls) == 1 else calls)
    content = f"{message.content}\n{written}" if message.content else written
    return msgspec.structs.replace(message, content=content, tool_calls=())


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
