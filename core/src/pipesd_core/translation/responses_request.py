"""A request of OpenAI's Responses API as one of chat completions."""

from __future__ import annotations

from typing import Any, Final

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import show, whole, wrong
from pipesd_core.translation.parameters import RESPONSES, passed_on
from pipesd_core.translation.responses_events import ResponsesAnswer
from pipesd_core.translation.responses_input import InputMessages
from pipesd_core.translation.translation import Translation, decode, given, refuse_rest

LOGPROBS: Final = "message.output_text.logprobs"
_ABSENT: Final = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""What `include` may ask for besides: parts of what is never in an answer here."""
_FORMATS: Final = ("text", "json_object", "json_schema")
_TOOL_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "async": (False,),
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "output_schema": (),
}


def translate(body: bytes) -> Translation:
    """The request in `body` as a chat. Raises InvalidRequest, and nothing else, whatever the bytes are."""
    fields = decode(body)
    echo = dict(fields)
    messages = InputMessages()
    if "instructions" in fields:
        messages.instruct(fields.pop("instructions"))
    messages.take(fields.pop("input", None))
    chat: dict[str, Any] = {}
    names = messages.names
    for name, theirs in (
        ("model", "model"),
        ("max_output_tokens", "max_completion_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("parallel_tool_calls", "parallel_tool_calls"),
        ("stream", "stream"),
    ):
        if name in fields:
            chat[theirs] = fields.pop(name)
    chat |= _text(fields.pop("text", {}), names)
    chat |= _reasoning(fields.pop("reasoning", {}))
    chat |= _logprobs(fields.pop("include", []), fields.pop("top_logprobs", 0))
    chat |= _tools(fields, names)
    _check_stream_options(fields.pop("stream_options", {}))
    names += [("reasoning_effort", "reasoning.effort"), ("verbosity", "text.verbosity")]
    names += [("max_tokens", "max_output_tokens"), ("max_completion_tokens", "max_output_tokens")]
    chat |= passed_on(RESPONSES, fields)
    chat["messages"] = messages.messages
    if chat.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return Translation(chat, tuple(names), lambda _: ResponsesAnswer(echo))


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    return given(value)


def _text(value: Any, names: list[tuple[str, str]]) -> dict[str, Any]:
    text = _object("text", value)
    chat: dict[str, Any] = {}
    if "verbosity" in text:
        chat["verbosity"] = text.pop("verbosity")
    if "format" in text:
        described = _object("text.format", text.pop("format"))
        kind = described.pop("type", None)
        if kind not in _FORMATS:
            raise wrong("text.format.type", "text, json_object or json_schema", kind)
        names += [("response_format.json_schema", "text.format"), ("response_format", "text.format")]
        if kind == "json_schema":
            chat["response_format"] = {"type": kind, "json_schema": described}
        else:
            refuse_rest("text.format", described)
            chat["response_format"] = {"type": kind}
    refuse_rest("text", text)
    return chat


def _reasoning(value: Any) -> dict[str, Any]:
    reasoning = _object("reasoning", value)
    for name in ("summary", "generate_summary"):  # of thoughts, which there are none of
        if not isinstance(summary := reasoning.pop(name, ""), str):
            raise wrong(f"reasoning.{name}", "a string", summary)
    effort = reasoning.pop("effort", None)
    refuse_rest("reasoning", reasoning)
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(include: Any, top: Any) -> dict[str, Any]:
    if not isinstance(include, list):
        raise wrong("include", "a list", include)
    for number, item in enumerate(include):
        if item != LOGPROBS and item not in _ABSENT:
            raise wrong(f"include[{number}]", f"{LOGPROBS} or what is never here ({', '.join(_ABSENT)})", item)
    if isinstance(top, bool):
        raise wrong("top_logprobs", "an integer", top)
    if LOGPROBS in include:
        return {"logprobs": True} | ({} if top == 0 else {"top_logprobs": top})
    if whole(top) != 0:
        raise InvalidRequest(f'top_logprobs is only allowed with include: ["{LOGPROBS}"]', param="top_logprobs")
    return {}


def _tools(fields: dict[str, Any], names: list[tuple[str, str]]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if "tools" in fields:
        tools = fields.pop("tools")
        if not isinstance(tools, list):
            raise wrong("tools", "a list", tools)
        chat["tools"] = [_tool(f"tools[{number}]", tool) for number, tool in enumerate(tools)]
        names += [(f"tools[{number}].function", f"tools[{number}]") for number in range(len(tools))]
    if "tool_choice" in fields:
        chat["tool_choice"] = _tool_choice(fields.pop("tool_choice"))
        names += [("tool_choice.function", "tool_choice"), ("tool_choice.allowed_tools", "tool_choice")]
    return chat


def _tool(where: str, value: Any) -> dict[str, Any]:
    tool = _object(where, value)
    kind = tool.pop("type", None)
    if kind != "function":
        raise InvalidRequest(
            f"{where} is of type {show(kind)}; tools of type function only are served here: leave it out",
            param=f"{where}.type",
        )
    for name, neutral in _TOOL_NEUTRAL.items():
        if name in tool and tool.pop(name) not in neutral:
            raise InvalidRequest(f"{where}.{name} is not served here; leave it out", param=f"{where}.{name}")
    return {"type": "function", "function": tool}


def _tool_choice(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    choice = given(value)
    kind = choice.pop("type", None)
    if kind == "function":
        return {"type": "function", "function": choice}
    if kind == "allowed_tools":
        tools = choice.get("tools")
        if isinstance(tools, list):
            choice["tools"] = [_tool_choice(tool) for tool in tools]
        return {"type": "allowed_tools", "allowed_tools": choice}
    raise InvalidRequest(
        f"tool_choice is of type {show(kind)}; give none, auto, required or a function", param="tool_choice"
    )


def _check_stream_options(value: Any) -> None:
    options = _object("stream_options", value)
    if not isinstance(padding := options.pop("include_obfuscation", False), bool):  # there is no padding
        raise wrong("stream_options.include_obfuscation", "true or false", padding)
    refuse_rest("stream_options", options)
