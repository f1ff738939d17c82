"""The functions that an answer may call: `tools`, `tool_choice` and `parallel_tool_calls` of a body, checked."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from msgspec import Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.constraint import Grammar
from pipesd_core.llamacpp.openai.chat_messages import PART_HINTS
from pipesd_core.llamacpp.openai.fields import Fields
from pipesd_core.llamacpp.openai.json_schema import lark_of
from pipesd_core.openai_values import show, wrong

MAX_TOOLS: Final = 128
"""Most tools of a request, as in OpenAI's API."""
MAX_NAME_CHARS: Final = 128
"""Longest name of a function."""
MAX_FORCED_CALLS: Final = 16
"""Most calls of an answer that has to call something: without a limit a small model may go on for ever."""
_MODES: Final = ("none", "auto", "required")
_CHOICE: Final = '"none", "auto", "required", or an object with type and function.name'


class Tool(Struct, frozen=True):
    """A function. parameters: the JSON schema of its arguments, an object's."""

    name: str
    description: str | None
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The tool as OpenAI writes it, which is what chat templates are given."""
        described = {} if self.description is None else {"description": self.description}
        return {"type": "function", "function": {"name": self.name, **described, "parameters": self.parameters}}


class Tools(Struct, frozen=True):
    """The tools of a request whose answer may call them.

    choice: auto: it may; required: it does, and nothing else. callable: the tools that may be called, of those that
    the model is told of. parallel: there may be several calls.
    """

    all: tuple[Tool, ...]
    callable: tuple[Tool, ...]
    choice: Literal["auto", "required"] = "auto"
    parallel: bool = True

    def grammar(self) -> Grammar | None:
        """What an answer has to follow that is calls and nothing else, in `tool_calls.PLAIN`; None: there is none.

        Raises InvalidRequest for a schema that could not be held to.
        """
        if self.choice != "required":
            return None
        rules = []
        for index, tool in enumerate(self.all):
            if tool in self.callable:
                schema = lark_of({"type": "object"} | tool.parameters, f"tools[{index}].function.parameters")
                begin = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": '
                rules.append((f"call_{index}", f'{_literal(begin)} {schema} "}}"'))
        one = " | ".join(name for name, _ in rules)
        several = f' | "[" call (", " call){{0,{MAX_FORCED_CALLS - 1}}} "]"' if self.parallel else ""
        lines = (("start", f"call{several}"), ("call", one), *rules)
        return Grammar("".join(f"{name}: {rule}\n" for name, rule in lines), "tools")


def take_tools(fields: Fields) -> Tools | None:
    """The tools that a body brings; None: its answer calls none. Raises InvalidRequest that names the place."""
    given, choice = fields.take("tools"), fields.take("tool_choice")
    parallel = fields.take("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise wrong("parallel_tool_calls", "true or false", parallel)
    tools = _tools(given)
    mode, name = _choice(choice)
    if not tools:
        if choice is None or mode in ("none", "auto"):
            return None
        raise InvalidRequest(f"tool_choice is {show(choice)}, but there are no tools", param="tool_choice")
    if mode == "none":
        return None
    if name is None:
        return Tools(tools, tools, "required" if mode == "required" else "auto", parallel is not False)
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        raise InvalidRequest(
            f"tool_choice names the function {show(name)}, but tools has none of that name",
            param="tool_choice.function.name",
        )
    return Tools(tools, named, "required", parallel=False)


def _tools(value: Any) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise wrong("tools", "a list of tools", value)
    if len(value) > MAX_TOOLS:
        raise InvalidRequest(f"tools may hold {MAX_TOOLS} tools, but holds {len(value)}", param="tools")
    tools = tuple(_tool(f"tools[{i}]", item) for i, item in enumerate(value))
    first: dict[str, int] = {}
    for i, tool in enumerate(tools):
        if first.setdefault(tool.name, i) != i:
            where = f"tools[{i}].function.name"
            raise InvalidRequest(f"{where} is {show(tool.name)}, as tools[{first[tool.name]}]'s is", param=where)
    return tools


def _tool(where: str, value: Any) -> Tool:
    if not isinstance(value, dict):
        raise wrong(where, "an object with type and function", value)
    if value.get("type") != "function":
        raise wrong(f"{where}.type", "function (no other kind of tool is served here)", value.get("type"))
    fields = _fields(where, {name: item for name, item in value.items() if name not in ("type", *PART_HINTS)})
    function = fields.take(f"{where}.function")
    fields.refuse_rest()
    where = f"{where}.function"
    if not isinstance(function, dict):
        raise wrong(where, "an object with name, description and parameters", function)
    fields = _fields(where, function)
    name, description = fields.string(f"{where}.name"), fields.string(f"{where}.description")
    parameters = fields.take(f"{where}.parameters")
    fields.boolean(f"{where}.strict")
    fields.refuse_rest()
    if name is None or not 1 <= len(name) <= MAX_NAME_CHARS:
        raise wrong(f"{where}.name", f"a string of 1 to {MAX_NAME_CHARS} characters", name)
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise wrong(f"{where}.parameters", "a JSON schema", parameters)
    kind = parameters.get("type", "object")
    if kind != "object":
        raise wrong(f"{where}.parameters.type", "object, since arguments are one", kind)
    return Tool(name, description, parameters)


def _choice(value: Any) -> tuple[str, str | None]:
    """The mode of a `tool_choice`, and the name of the function that it wants."""
    if value is None:
        return "auto", None
    if isinstance(value, str) and value in _MODES:
        return value, None
    if not isinstance(value, dict):
        raise wrong("tool_choice", _CHOICE, value)
    fields = _fields("tool_choice", value)
    kind, function = fields.take("tool_choice.type"), fields.take("tool_choice.function")
    if kind != "function":
        raise wrong("tool_choice.type", "function (no other kind of choice is served here)", kind)
    fields.refuse_rest()
    if not isinstance(function, dict):
        raise wrong("tool_choice.function", "an object with name", function)
    fields = _fields("tool_choice.function", function)
    name = fields.string("tool_choice.function.name")
    fields.refuse_rest()
    if name is None:
        raise wrong("tool_choice.function.name", "a string", None)
    return "required", name


def _literal(text: str) -> str:
    """A text in a grammar."""
    return json.dumps(text, ensure_ascii=False)


def _fields(where: str, value: dict[str, Any]) -> Fields:
    return Fields({f"{where}.{name[:64]}": item for name, item in value.items()})
