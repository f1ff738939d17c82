"""A request of Anthropic's Messages API as one of chat completions."""

from __future__ import annotations

from typing import Any

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import show, wrong
from pipesd_core.translation.messages_events import MessagesAnswer
from pipesd_core.translation.messages_history import ChatHistory
from pipesd_core.translation.parameters import MESSAGES, passed_on
from pipesd_core.translation.translation import Translation, decode, given, refuse_rest


def translate(body: bytes, *, counting: bool = False) -> Translation:
    """The request in `body` as a chat. Raises InvalidRequest, and nothing else, whatever the bytes are.

    counting: it is one of `/v1/messages/count_tokens`, which has no `max_tokens`.
    """
    fields = decode(body)
    history = ChatHistory()
    if "system" in fields:
        history.instruct(fields.pop("system"))
    history.take(fields.pop("messages", None))
    if "max_tokens" not in fields and not counting:
        raise wrong("max_tokens", "an integer", None)
    chat: dict[str, Any] = {"messages": history.messages}
    names = [*history.names, ("stop", "stop_sequences")]
    for name, theirs in (
        ("model", "model"),
        ("max_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("stop_sequences", "stop"),
        ("stream", "stream"),
    ):
        if name in fields:
            chat[theirs] = fields.pop(name)
    chat |= _tools(fields, names)
    chat |= _output_config(fields.pop("output_config", {}), names)
    chat |= passed_on(MESSAGES, fields)
    if chat.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    return Translation(chat, tuple(names), MessagesAnswer)


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    return given(value)


def _tools(fields: dict[str, Any], names: list[tuple[str, str]]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if "tools" in fields:
        tools = fields.pop("tools")
        if not isinstance(tools, list):
            raise wrong("tools", "a list", tools)
        chat["tools"] = [_tool(f"tools[{number}]", tool) for number, tool in enumerate(tools)]
        for number in range(len(tools)):
            theirs, own = f"tools[{number}].function", f"tools[{number}]"
            names += [(f"{theirs}.parameters", f"{own}.input_schema"), (theirs, own)]
    if "tool_choice" in fields:
        chat |= _tool_choice(_object("tool_choice", fields.pop("tool_choice")))
        names += [("tool_choice.function", "tool_choice")]
        names += [("parallel_tool_calls", "tool_choice.disable_parallel_tool_use")]
    return chat


def _tool(where: str, value: Any) -> dict[str, Any]:
    tool = _object(where, value)
    kind = tool.pop("type", "custom")
    if kind != "custom":
        raise InvalidRequest(
            f"{where} is of type {show(kind)}; tools of type custom only are served here: leave it out",
            param=f"{where}.type",
        )
    tool.pop("cache_control", None)
    for name, neutral in (("defer_loading", False), ("allowed_callers", ["direct"]), ("input_examples", [])):
        if name in tool and tool.pop(name) != neutral:
            raise InvalidRequest(f"{where}.{name} is not served here; leave it out", param=f"{where}.{name}")
    if "parameters" in tool:
        raise InvalidRequest(f"{where}.parameters is not of this route; give input_schema", param=f"{where}.parameters")
    function = {"name": tool.pop("name", None), "parameters": tool.pop("input_schema", None)}
    if not isinstance(function["parameters"], dict):
        raise wrong(f"{where}.input_schema", "a JSON schema (an object)", function["parameters"])
    return {"type": "function", "function": function | tool}


def _tool_choice(choice: dict[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if "disable_parallel_tool_use" in choice:
        alone = choice.pop("disable_parallel_tool_use")
        if not isinstance(alone, bool):
            raise wrong("tool_choice.disable_parallel_tool_use", "true or false", alone)
        chat["parallel_tool_calls"] = not alone
    kind, name = choice.pop("type", None), choice.pop("name", None)
    refuse_rest("tool_choice", choice)
    if kind == "tool":
        return chat | {"tool_choice": {"type": "function", "function": {"name": name}}}
    named = {"auto": "auto", "any": "required", "none": "none"}
    if not isinstance(kind, str) or kind not in named:
        raise wrong("tool_choice.type", "auto, any, tool or none", kind)
    if name is not None:
        raise InvalidRequest(f"tool_choice.name is only allowed with type tool, not {kind}", param="tool_choice.name")
    return chat | {"tool_choice": named[kind]}


def _output_config(value: Any, names: list[tuple[str, str]]) -> dict[str, Any]:
    config = _object("output_config", value)
    chat: dict[str, Any] = {}
    if "effort" in config:
        chat["reasoning_effort"] = config.pop("effort")
        names.append(("reasoning_effort", "output_config.effort"))
    if "format" in config:
        described = _object("output_config.format", config.pop("format"))
        kind, schema = described.pop("type", None), described.pop("schema", None)
        refuse_rest("output_config.format", described)
        if kind != "json_schema":
            raise wrong("output_config.format.type", "json_schema", kind)
        chat["response_format"] = {"type": kind, "json_schema": {"name": "answer", "schema": schema}}
        names += [("response_format.json_schema", "output_config.format"), ("response_format", "output_config.format")]
    refuse_rest("output_config", config)
    return chat
