"""Agents that call functions, turn after turn: the same at the gateway alone and through the device's agent.

The target writes calls in each known format, from a script; drafts of prompt lookup cut its text into steps.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from both_ends import both_ends
from event_stream import data_of
from fake_decoder import EOS, FakeDecoder, FakeModel
from tool_formats import CALLS, template, written

from pipesd_core.llamacpp.openai.tool_calls import HERMES, LLAMA3, MISTRAL, CallFormat

QUESTION = "How heavy are tea and rice together, in grams?"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"It can {name}.",
            "parameters": {"type": "object", "properties": {"of": {"type": "array"}}},
        },
    }
    for name in ("weigh", "add")
]
LOOP: list[list[tuple[str, dict[str, Any]]]] = [
    [("weigh", {"of": ["tea ü", '}"']}), ("weigh", {"of": ["rice"]})],
    [("add", {"of": [7, 12]})],
]
"""The calls of each turn but the last."""
ANSWER = "Together they are 19 g, a < b."


class Model(FakeModel):
    def __init__(self, form: CallFormat) -> None:
        self.chat_template = template(CALLS[form.name])


class Decoder(FakeDecoder):
    """Answers by the number of turns in the prompt."""

    n_ctx_seq = 8192

    def __init__(self, form: CallFormat) -> None:
        super().__init__(b"", model=Model(form))
        said = "" if form is LLAMA3 else "Let me see. "
        self.turns = [said + written(form, calls).removeprefix(LLAMA3.opening) for calls in LOOP] + [ANSWER]

    def answer_to(self, prompt: tuple[int, ...], _seed: int) -> tuple[int, ...]:
        turns = bytes(prompt).decode().count("<assistant>")
        return (*self.turns[turns - 1].encode(), EOS)


def result_of(name: str, arguments: dict[str, Any]) -> str:
    return f"{name} of {arguments['of']} is {len(json.dumps(arguments))}"


def joined(response: httpx.Response) -> tuple[dict[str, Any], str]:
    """The message of a stream, and its finish reason."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: list[dict[str, Any]] = []
    *events, done = data_of(response)
    assert done == "[DONE]"
    reason = ""
    for event in events:
        (choice,) = json.loads(event)["choices"]
        if (text := choice["delta"].get("content")) is not None:
            message["content"] = (message["content"] or "") + text
        for piece in choice["delta"].get("tool_calls", ()):
            if "id" in piece:
                calls.append({"id": piece["id"], "type": "function", "function": piece["function"]})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        reason = choice["finish_reason"] or reason
    return message | ({"tool_calls": calls} if calls else {}), reason


async def converse(client: httpx.AsyncClient, *, stream: bool) -> list[dict[str, Any]]:
    """The messages of a whole conversation, as a client keeps them."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    for _ in range(len(LOOP) + 1):
        body = {"messages": messages, "tools": TOOLS, "seed": 5, "stream": stream}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        if stream:
            message, reason = joined(response)
        else:
            (choice,) = response.json()["choices"]
            message, reason = choice["message"], choice["finish_reason"]
        messages.append(message)
        if reason == "stop":
            return messages
        assert reason == "tool_calls"
        for call in message["tool_calls"]:
            function = call["function"]
            content = result_of(function["name"], json.loads(function["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    raise AssertionError("it does not end")


@pytest.mark.parametrize("form", [HERMES, LLAMA3, MISTRAL], ids=lambda form: form.name)
async def test_a_loop_is_the_same_at_the_gateway_and_through_the_agent(form: CallFormat) -> None:
    decoder = Decoder(form)
    async with both_ends(decoder) as (plain, drafted):
        own = await converse(plain, stream=False)
        assert [message["role"] for message in own] == [
            "user", "assistant", "tool", "tool", "assistant", "tool", "assistant",
        ]  # fmt: skip
        asked = [
            [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]]
            for message in own
            if "tool_calls" in message
        ]
        assert asked == LOOP
        ids = [call["id"] for message in own for call in message.get("tool_calls", ())]
        assert len(set(ids)) == 3, "an id is another one in every turn"
        assert own[-1]["content"] == ANSWER
        last = bytes(decoder.prompts[-1]).decode()
        assert all(message["content"] in last for message in own if message["role"] == "tool")
        for client, stream in ((plain, True), (drafted, False), (drafted, True)):
            assert await converse(client, stream=stream) == own
        steps = [step for sequence in decoder.sequences for step in sequence.accepted]
        assert sum(steps) > 0, "nothing was drafted: this proves little"


async def test_choices_have_calls_of_their_own() -> None:
    async with both_ends(Decoder(HERMES)) as clients:
        seen = []
        for client in clients:
            body = {"messages": [{"role": "user", "content": QUESTION}], "tools": TOOLS, "seed": 5, "n": 3}
            choices = (await client.post("/v1/chat/completions", json=body)).json()["choices"]
            assert [choice["finish_reason"] for choice in choices] == ["tool_calls"] * 3
            seen.append([[call["id"] for call in choice["message"]["tool_calls"]] for choice in choices])
        assert seen[0] == seen[1]
        assert len({name for ids in seen[0] for name in ids}) == 6


async def test_what_is_wrong_with_tools_is_the_same_at_both() -> None:
    wrong: list[dict[str, Any]] = [
        {"tools": [{"type": "web_search"}]},
        {"tools": TOOLS, "tool_choice": "any"},
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        {"messages": [{"role": "tool", "content": "x"}]},
    ]
    async with both_ends(Decoder(HERMES)) as (plain, drafted):
        for change in wrong:
            body = {"messages": [{"role": "user", "content": "x"}]} | change
            answers = [await client.post("/v1/chat/completions", json=body) for client in (plain, drafted)]
            assert [answer.status_code for answer in answers] == [400, 400]
            assert answers[0].json() == answers[1].json()
