"""Chat messages to prompt text, by the model's own chat template (Jinja, in the sandbox that HF transformers uses).

As in vLLM and HF, the rendered text is tokenised as a whole with special tokens recognised: the template's markers have
to become control tokens, so a marker that a user types into a message becomes one too. That is the behaviour of the
reference servers, and a template offers no way to tell the two apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipesd_core.errors import InvalidRequest, ModelLoadError
from pipesd_core.llamacpp.openai.chat_messages import Message
from pipesd_core.llamacpp.openai.tools import Tool


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text.
        special: names that templates use for special tokens, such as `bos_token`, with their text.

    Raises: ModelLoadError when the template does not compile.
    """

    def __init__(self, source: str, special: Mapping[str, str] | None = None) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special = dict(special or {})
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelLoadError(f"the chat template does not compile: {error}") from error

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt text, ready for the assistant's answer.

        The role `developer` is given to the template as `system`, its older name; arguments of calls as objects, as HF
        does. Raises `InvalidRequest` when the template refuses the messages.
        """
        rows = [_row(message) for message in messages]
        listed = [tool.to_json() for tool in tools] or None
        try:
            return self._template.render(messages=rows, tools=listed, add_generation_prompt=True, **self._special)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError) as error:
            raise InvalidRequest(
                f"the chat template does not take these messages: {error}", param="messages"
            ) from error


def _row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content,
    }
    if message.tool_calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            row[name] = value
    return row


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The `tojson` filter of HF transformers: no HTML escapes, non-ASCII as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
