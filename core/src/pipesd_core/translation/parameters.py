"""The parameters of `/v1/responses` and `/v1/messages`, as the translation to chat completions takes them.

Those in `TRANSLATED` are served: each has a counterpart in a chat. Those in `TABLE` are not, and accepted where their
value changes nothing, as in `openai_parameters.TABLE`. What is in neither goes into the chat as it is, where it is
served (`seed`, `min_p`, …), accepted or refused, unless a chat has it under a name that these routes have another for.
"""

from __future__ import annotations

from typing import Any, Final

from pipesd_core.errors import InvalidRequest
from pipesd_core.openai_parameters import Parameter
from pipesd_core.protocol.messages import Endpoint

RESPONSES, MESSAGES = Endpoint.RESPONSES, Endpoint.MESSAGES

TRANSLATED: Final[dict[Endpoint, tuple[str, ...]]] = {
    RESPONSES: (
        "model", "input", "instructions", "max_output_tokens", "temperature", "top_p", "text", "tools", "tool_choice",
        "parallel_tool_calls", "reasoning", "include", "top_logprobs", "stream", "stream_options",
    ),
    MESSAGES: (
        "model", "messages", "system", "max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "tools",
        "tool_choice", "output_config", "stream",
    ),
}  # fmt: skip

_FOREIGN: Final[dict[Endpoint, dict[str, str]]] = {
    RESPONSES: {
        "messages": "input",
        "prompt": "input",
        "max_tokens": "max_output_tokens",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "logprobs": 'include: ["message.output_text.logprobs"]',
        "reasoning_effort": "reasoning.effort",
        "verbosity": "text.verbosity",
        "n": "",
    },
    MESSAGES: {
        "prompt": "messages",
        "max_completion_tokens": "max_tokens",
        "response_format": "output_config.format",
        "stop": "stop_sequences",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
        "reasoning_effort": "output_config.effort",
        "stream_options": "",
        "logprobs": "",
        "top_logprobs": "",
        "n": "",
    },
}
"""Parameters of a chat that these routes have under another name, or not at all."""


def _stateful(name: str, meaning: str, *neutral: Any) -> Parameter:
    return Parameter(name, f"{meaning}; nothing is kept here", neutral, endpoint=RESPONSES)


def _hint(endpoint: Endpoint, name: str, kind: Any, meaning: str) -> Parameter:
    return Parameter(name, meaning, hint=kind, endpoint=endpoint)


TABLE: Final[tuple[Parameter, ...]] = (
    _stateful("background", "answer later", False),
    _stateful("background_options", "how to answer later"),
    _stateful("conversation", "a stored conversation"),
    _stateful("previous_response_id", "a stored answer"),
    _stateful("prompt", "a stored prompt"),
    _stateful("store", "keep the answer", False),
    Parameter("access_programs", "programs that the caller takes part in", endpoint=RESPONSES),
    Parameter("context_management", "how to cut the input", ([],), endpoint=RESPONSES),
    Parameter("image", "how to draw", endpoint=RESPONSES),
    Parameter("moderation", "checks of input and answer", endpoint=RESPONSES),
    Parameter("truncation", "cut the input", ("disabled",), endpoint=RESPONSES),
    _hint(RESPONSES, "max_tool_calls", "an integer", "of tools that a server runs; there are none"),
    Parameter("container", "of tools that a server runs", endpoint=MESSAGES),
    Parameter("context_management", "how to cut the messages", endpoint=MESSAGES),
    Parameter("inference_geo", "where to compute", endpoint=MESSAGES),
    Parameter("mcp_servers", "servers of tools", ([],), endpoint=MESSAGES),
    Parameter("service_tier", "class of service", ("auto", "standard_only"), endpoint=MESSAGES),
    Parameter("speed", "how fast to answer", ("standard",), endpoint=MESSAGES),
    Parameter("thinking", "thoughts before the answer", ({"type": "disabled"},), endpoint=MESSAGES),
)
_TABLES: Final = {endpoint: {each.name: each for each in TABLE if each.endpoint is endpoint} for endpoint in TRANSLATED}


def own_names(endpoint: Endpoint) -> frozenset[str]:
    """Names that only this endpoint has: whoever leaves out what nobody knows keeps these. Of chats there are none."""
    return frozenset(_TABLES.get(endpoint, ())).union(TRANSLATED.get(endpoint, ()))


def passed_on(endpoint: Endpoint, rest: dict[str, Any]) -> dict[str, Any]:
    """Those of the parameters that are not translated that go into the chat as they are.

    Raises InvalidRequest for a value that would change the answer, and for what a chat has under another name.
    """
    kept: dict[str, Any] = {}
    for name, value in rest.items():
        if (parameter := _TABLES[endpoint].get(name)) is not None:
            if (error := parameter.refusal(value)) is not None:
                raise error
        elif (own := _FOREIGN[endpoint].get(name)) is not None:
            instead = f"; give {own}" if own else "; leave it out"
            raise InvalidRequest(f"{name} is a parameter of /v1/chat/completions{instead}", param=name)
        else:
            kept[name] = value
    return kept
