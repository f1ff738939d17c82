"""Facts about the body of an OpenAI request: does it stream, how many choices, how many prompts, one sequence or more.

Only the fields in question are decoded; a prompt, which may be long, stays raw JSON. A body that is wrong is refused by
the engine, in the engine's words, so nothing here checks more than it needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_values import is_number, whole
from pipesd_core.protocol.messages import Endpoint

NOT_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""The exceptions of `msgspec.json.decode` for bytes that are not JSON, or not JSON of the type asked for."""
DEFAULT_MODEL: Final = "default"
"""The name in requests of the model that is served, whatever its own name is."""
_LIST_OF_PROMPTS: Final = re.compile(rb'\[[ \t\n\r]*["\[]')
_TEXT_INPUT: Final = re.compile(rb'[ \t\n\r]*"')
_NOTHING: Final = re.compile(rb'(null|""|\[[ \t\n\r]*\]|)')
_WHOLE_IN_STRING: Final = re.compile(r"\s*[+]?[0-9]{1,18}\s*")
_TRUE_IN_STRING: Final = frozenset(("1", "true", "t", "yes", "y", "on"))


_TEXT_PARTS: Final = frozenset(
    (
        *("text", "input_text", "output_text", "refusal", "thinking", "tool_reference", "reasoning_text"),
        *("redacted_thinking", "tool_use", "tool_result", "tool_addition", "tool_removal"),
    )
)
"""Types of a message's parts that are text, or calls and their results."""
_OTHER_PART: Final = re.compile("(input_)?(image|audio|video|file)|prompt_embeds")
"""Beginnings of the keys that make a part of a message something else, whatever its type says."""


_CLIENT_TOOLS: Final = frozenset(("function", "custom", "namespace"))
"""Types of tools whose calls are the client's to make."""


class _Message(Struct, frozen=True):
    content: Any = None
    output: Any = None


class _Tool(Struct, frozen=True):
    type: Any = "function"


class BodyOutline(Struct, frozen=True):
    """The fields of a body that say how many sequences it asks for, and of what; long ones are raw JSON."""

    n: Any = None
    best_of: Any = None
    use_beam_search: Any = None
    prompt: Raw = Raw(b"")
    prompt_embeds: Raw = Raw(b"")
    messages: Raw = Raw(b"[]")
    input: Raw = Raw(b"[]")
    background: Any = None
    tools: Raw = Raw(b"[]")

    def other_than_text(self) -> str | None:
        """What the first part of the messages, or input, that is not text is; None: all are.

        Raises one of `NOT_JSON`.
        """
        items = b"[]" if _TEXT_INPUT.match(self.input) else self.input
        for raw in (self.messages, items):
            for message in msgspec.json.decode(raw, type=list[_Message] | None) or ():
                parts = [part for value in (message.content, message.output) for part in _dicts(value)]
                parts += [inner for part in parts for inner in _dicts(part.get("content"))]
                for part in parts:
                    kinds: list[str] = [key for key in part if _OTHER_PART.match(key)]
                    if part.get("type") is not None and str(part["type"]) not in _TEXT_PARTS:
                        kinds.append(str(part["type"]))
                    if kinds:
                        return kinds[0]
        return None

    def server_tool(self) -> str | None:
        """The type of the first tool that a server runs while it answers; None: there is none.

        Raises one of `NOT_JSON`.
        """
        tools = msgspec.json.decode(self.tools, type=list[_Tool] | None) or ()
        kinds = (str(tool.type) for tool in tools)  # of any JSON type
        return next((kind for kind in kinds if kind not in _CLIENT_TOOLS), None)

    @property
    def has_prompt_embeds(self) -> bool:
        return _NOTHING.fullmatch(self.prompt_embeds) is None

    def prompts(self, endpoint: Endpoint) -> list[Raw]:
        """The prompts of a completion that holds a list of them; empty for a single prompt and for a chat."""
        return split_prompts(self.prompt) if endpoint is Endpoint.COMPLETIONS else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


class _Stream(Struct):
    stream: bool | None = None


def read_outline(body: bytes) -> BodyOutline:
    """The outline of a body. Raises one of `NOT_JSON`."""
    return msgspec.json.decode(body, type=BodyOutline)


class _ResponseFormat(Struct):
    response_format: Any = None


def response_format(body: bytes) -> Any:
    """The response_format of a body, whatever it is; None: there is none, or the body is no JSON object."""
    if b'"response_format"' not in body:  # which is all that most bodies cost
        return None
    try:
        return msgspec.json.decode(body, type=_ResponseFormat).response_format
    except NOT_JSON:
        return None


def wants_stream(body: bytes) -> bool:
    """Whether a body that the engine has accepted asks for a stream.

    Raises InvalidRequest: some engines accept more than true, false and null here.
    """
    try:
        return bool(msgspec.json.decode(body, type=_Stream).stream)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"stream must be true or false: {error}", param="stream") from error
    except NOT_JSON as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error


def names_served_model(model: str | None, served: str) -> bool:
    """Whether a request's `model` names the one that is served; None: the request does not name any."""
    return model in (None, "", DEFAULT_MODEL, served)


def may_stream(body: bytes) -> bool:
    """Whether a body that nobody has accepted yet asks for a stream, so that its answer will be one."""
    try:
        return wants_stream(body)
    except InvalidRequest:
        return False


def with_seed(body: bytes, draw: Callable[[], int]) -> tuple[bytes, int | None]:
    """A body with a seed, and the seed: drawn where the body has none.

    None where it cannot be known what the engine makes of it: -1 is none at all for some, and what is no number is for
    the engine to refuse.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        seed = msgspec.json.decode(fields.get("seed", b"null"))
    except NOT_JSON:
        return body, None
    if seed is None:
        seed = draw()
        return msgspec.json.encode(fields | {"seed": Raw(b"%d" % seed)}), seed
    if isinstance(seed, float) and seed.is_integer():
        seed = int(seed)
    return body, seed if type(seed) is int and seed != -1 else None


def is_more_than_one(value: Any) -> bool:
    """Whether an engine may take a decoded `n` or `best_of` for a number above 1: vLLM takes "2" for 2."""
    if isinstance(value, str) and _WHOLE_IN_STRING.fullmatch(value):
        return int(value) > 1
    return is_number(value) and value > 1


def may_be_true(value: Any) -> bool:
    """Whether an engine may take a decoded value for true: vLLM takes 1 and "yes" for it."""
    if isinstance(value, str):
        return value.casefold() in _TRUE_IN_STRING
    return value is True or (is_number(value) and value == 1)


def choices_per_prompt(n: Any) -> int:
    """The number of choices that a decoded `n` asks for; 1 for what is no valid `n`."""
    return max(1, whole(n) or 1)


def has_multiple_choices(endpoint: Endpoint, body: bytes) -> bool:
    """Whether a body asks for more than one choice. False for a body that is wrong."""
    if endpoint not in (Endpoint.CHAT_COMPLETIONS, Endpoint.COMPLETIONS):
        return False
    try:
        outline = read_outline(body)
        return choices_per_prompt(outline.n) > 1 or len(outline.prompts(endpoint)) > 1
    except NOT_JSON:
        return False


def split_prompts(prompt: Raw) -> list[Raw]:
    """The prompts of a list of strings, or of a list of lists of token ids; empty if `prompt` is no such list."""
    if _LIST_OF_PROMPTS.match(prompt) is None:
        return []
    items = msgspec.json.decode(prompt, type=list[Raw])
    kinds = {bytes(memoryview(item)[:1]) for item in items}
    return items if len(kinds) == 1 else []


def unwrap_prompt(value: Any) -> Any:
    """A decoded `prompt` that is a list of one prompt, as LangChain sends it, as that prompt; else the value itself."""
    return value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list) else value


def is_list_of_prompts(value: Any) -> bool:
    """Whether a decoded `prompt` is a list of prompts, strings and lists of token ids perhaps mixed."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, str | list) for item in value)
