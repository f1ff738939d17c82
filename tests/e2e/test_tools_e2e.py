"""Forced calls of the real engine, with drafts: through an agent they are the target's own, streamed and not.

The reference is the gateway's plain HTTP API, as in `test_identity`. Calls that are not forced are in
tests/protocol/test_tool_loops.py: models of this size make none of themselves.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from harness import DRAFT, MODEL, Process, agent_thread, gateway, in_parallel, openai_client
from openai import BadRequestError
from openai.types.chat import ChatCompletion
from repository import ROOT

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SCHEMAS: dict[str, dict[str, Any]] = {
    "add_function": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "arguments": {"type": "array", "items": {"$ref": "#/$defs/argument"}, "maxItems": 3},
            "line": {"type": "integer", "minimum": 1, "maximum": 400},
        },
        "required": ["name", "line"],
        "$defs": {"argument": {"enum": ["self", "key", "value"]}},
    },
    "rename": {
        "type": "object",
        "properties": {"to": {"type": "string", "maxLength": 16}, "twice": {"type": "boolean"}},
        "required": ["to", "twice"],
    },
    "stop": {"type": "object", "properties": {}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
CHOICES: dict[str, dict[str, Any]] = {
    "required": {"tool_choice": "required"},
    "one": {"tool_choice": "required", "parallel_tool_calls": False},
    "named": {"tool_choice": {"type": "function", "function": {"name": "rename"}}},
    "penalties": {"tool_choice": "required", "presence_penalty": 0.7, "top_p": 0.9, "logit_bias": {"12": 2}},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "T=0": {"temperature": 0, "seed": 3},
    "T=1": {"temperature": 1, "seed": 2**40 + 77},
}
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Write a Python function `add`. Adds two numbers."}]
TURN: list[dict[str, Any]] = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "rename", "arguments": '{"to": "plus"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "It is `plus` now."},
]
CELLS = list(itertools.product(CHOICES, SAMPLING, (0, 1), (False, True)))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--log-level", "warning") as process:
        yield process


Answer = tuple[str | None, list[tuple[str, str, str]], str]
"""Content, calls (id, name, arguments), finish reason."""


def ask(url: str, cell: tuple[str, str, int, bool]) -> tuple[Answer, dict[str, Any]]:
    choice, sampling, turn, stream = cell
    body: dict[str, Any] = {"model": MODEL, "messages": (ASKED, TURN)[turn], "tools": TOOLS, "max_tokens": 160}
    body |= CHOICES[choice] | SAMPLING[sampling]
    client = openai_client(url)
    if not stream:
        answer: ChatCompletion = client.chat.completions.create(**body)
        message = answer.choices[0].message
        calls = [call for call in message.tool_calls or () if call.type == "function"]
        assert answer.usage is not None
        return (
            message.content,
            [(call.id, call.function.name, call.function.arguments) for call in calls],
            answer.choices[0].finish_reason,
        ), answer.usage.model_dump()
    content: str | None = None
    parts: list[list[str]] = []
    reason = ""
    usage: dict[str, Any] = {}
    for chunk in client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        usage = usage if chunk.usage is None else chunk.usage.model_dump()
        for part in chunk.choices:
            content = content if part.delta.content is None else (content or "") + part.delta.content
            for call in part.delta.tool_calls or ():
                if call.id is not None:
                    parts.append([call.id, call.function.name, ""])
                parts[call.index][2] += call.function.arguments or ""
            reason = part.finish_reason or reason
    return (content, [(name, called, arguments) for name, called, arguments in parts], reason), usage


@pytest.fixture(scope="module")
def target_only(target: Process) -> list[Answer]:
    answers = [answer for answer, _ in in_parallel(lambda cell: ask(target.url, cell), CELLS, 4)]
    for plain, streamed in zip(answers[::2], answers[1::2], strict=True):
        assert plain == streamed
    return answers


@pytest.mark.parametrize("wrong", [0.3, pytest.param(0.0, marks=pytest.mark.full)])
def test_forced_calls_are_the_targets_own(target: Process, target_only: list[Answer], wrong: float) -> None:
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    with agent_thread(AgentConfig(gateway=target.root), drafter) as agent:
        answers = in_parallel(lambda cell: ask(agent.url, cell), CELLS, 4)
    for cell, (answer, _), own in zip(CELLS, answers, target_only, strict=True):
        assert answer == own, cell
    accepted = sum(usage["pipesd"]["accepted"] for _, usage in answers)
    tokens = sum(usage["completion_tokens"] for _, usage in answers)
    assert accepted > 0.05 * tokens, "hardly anything was drafted: this proves little"
    print(f"{len(CELLS)} answers, {tokens} tokens, {accepted} of them drafted")


def test_forced_calls_are_whole_and_follow_their_schemas(target_only: list[Answer]) -> None:
    whole = 0
    for (choice, *_), (content, calls, reason) in zip(CELLS, target_only, strict=True):
        assert content is None
        assert calls
        assert reason in ("tool_calls", "length")
        assert len(calls) == 1 or choice in ("required", "penalties")
        for place, (_, name, arguments) in enumerate(calls):
            if reason == "tool_calls" or place < len(calls) - 1:
                jsonschema_rs.validate(SCHEMAS[name], json.loads(arguments))
                whole += 1
            assert choice != "named" or name == "rename"
    assert whole > len(CELLS) / 2
    assert len({name for _, calls, _ in target_only for _, name, _ in calls}) > 1


def test_a_model_whose_template_teaches_no_format_says_so_and_what_helps(tmp_path: Any, target: Process) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": ASKED, "tools": TOOLS, "max_tokens": 24, "temperature": 0}
    with pytest.raises(BadRequestError, match="--chat-template FILE"):
        openai_client(target.url).chat.completions.create(**body)
    template = ROOT / "configs" / "chat_templates" / "chatml_hermes.jinja"
    with (
        gateway(tmp_path, "--chat-template", str(template)) as other,
        agent_thread(AgentConfig(gateway=other.root), LlamaDrafter(DRAFT)) as agent,
    ):
        own, drafted = (openai_client(url).chat.completions.create(**body) for url in (other.url, agent.url))
    assert own.choices == drafted.choices
    assert own.usage is not None
    assert own.usage.prompt_tokens > 100, "the model is told of the tools"
