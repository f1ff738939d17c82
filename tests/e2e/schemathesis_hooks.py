"""What schemathesis is told beside the description: facts of the demo model, rules between fields, and checks of ours.

Loaded by its command line (`test_schemathesis`), not by pytest. Bodies are changed so that what the schema allows stays
allowed and what it forbids stays forbidden; `positive_data_acceptance` then finds whatever the description promises too
much, and `negative_data_rejection` whatever it promises too little.

Environment: PIPESD_RECORD, the id of a request that the server remembers; PIPESD_DOWN, set where nothing but errors is
expected of the POST routes.
"""

from __future__ import annotations

import json
import os
from typing import Any

import jsonschema_rs
import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

TOKENS = 4
"""Longest answer: many requests rather than long ones."""
CHOICES = 3
CHAT_BYTES = 1800
"""Longest chat: no token is shorter than a byte, and the demo model's context has 2048, marks of the turns included."""
MODEL = "pipesd-demo-target"
SCHEMAS = [
    {"type": "boolean"},
    {"enum": ["a", 1]},
    {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"], "additionalProperties": False},
]
"""JSON schemas that the engine holds to; which others it does is no matter of this description."""

TRANSLATED = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")

description: dict[str, Any] = {}


def is_the_gateways(path: str, raw_schema: dict[str, Any]) -> bool:
    return any("default" in operation["responses"] for operation in raw_schema["paths"][path].values())


@schemathesis.hook
def before_load_schema(_: HookContext, raw_schema: dict[str, Any]) -> None:
    """Say what no description can know: the model's name and vocabulary, and that this server has keys."""
    schemas = raw_schema["components"]["schemas"]
    parameters = schemas["Parameters"]["properties"]
    parameters["model"] = {"enum": [MODEL, "default", "", None]}
    parameters["logit_bias"]["propertyNames"] = {"pattern": "^(0|[1-9][0-9]{0,2})$"}
    parameters["response_format"]["anyOf"][2]["properties"]["json_schema"]["properties"]["schema"] = {"enum": SCHEMAS}
    schemas["TokenId"]["maximum"] = 4095
    for name in ("ChatRequest", "CompletionRequest"):  # the agent's does not say it: it depends on the engine
        schemas[name]["additionalProperties"] = {"type": "null"}
    schemas["Message"]["additionalProperties"] = {"type": ["array", "null"], "maxItems": 0}
    if "VerifyRequest" in schemas:
        schemas["VerifyRequest"]["properties"]["requests"]["items"]["properties"]["drafts"]["maxItems"] = 61
    # A translation's bodies are a chat's in other words: tests/core/translation says what is refused of them. And what
    # the gateway's own routes answer, the gateway says.
    for path in [path for path in raw_schema["paths"] if path in TRANSLATED or is_the_gateways(path, raw_schema)]:
        del raw_schema["paths"][path]
    examples = {"request_id": os.environ["PIPESD_RECORD"], "model": MODEL}
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            operation["security"] = [way for way in operation["security"] if way]
            for parameter in operation.get("parameters", ()):
                parameter["example"] = examples.get(parameter.get("name"))
    description.update(raw_schema)


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], __: dict[str, Any]) -> None:
    body: Any = case.body
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive:
        body = case.body = _whole_numbers(body)
    if not isinstance(body, dict) or "/v1/pipesd" in case.operation.path:
        return
    for name in ("max_tokens", "max_completion_tokens"):
        if _is_int(body.get(name), 1, 2**31 - 1):
            body[name] = min(body[name], TOKENS)
        elif body.get(name) == -1:  # as long as the context
            body[name] = TOKENS
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = TOKENS
    if _is_int(body.get("n"), 1, 128):
        body["n"] = min(body["n"], CHOICES)
    if positive:
        _keep_the_rules_between_fields(body)


def _keep_the_rules_between_fields(body: dict[str, Any]) -> None:
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("top_logprobs"):
        body["logprobs"] = True
    if body.get("max_completion_tokens") is not None:
        body["max_tokens"] = body["max_completion_tokens"]
    if body.get("ignore_eos") and body.get("response_format") is not None:
        body["ignore_eos"] = False
    if "messages" in body:
        _make_tools_callable(body)
    prompts = body["prompt"] if isinstance(body.get("prompt"), list) else []
    if len(prompts) * CHOICES > 128 or body.get("n") is None:
        body["n"] = 1
    if body.get("best_of") is not None:
        body["best_of"] = body["n"]
    if _is_int(body.get("seed"), 2**62, 2**63):
        body["seed"] -= 128  # so that the last choice has one too
    if isinstance(body.get("messages"), list):
        _fit_the_context(body["messages"])


def _make_tools_callable(body: dict[str, Any]) -> None:
    """Tools with names of their own and schemas that can be held to; the demo model's template teaches no format."""
    del (body.get("tools") or [])[2:]
    for number, tool in enumerate(body.get("tools") or []):
        tool["function"] |= {"name": f"f{number}", "description": None, "parameters": SCHEMAS[2]}
    choice = body.get("tool_choice")
    if not body.get("tools") or choice in (None, "auto"):
        body["tool_choice"] = "none"
    elif isinstance(choice, dict):
        choice["function"]["name"] = "f0"
    if body["tool_choice"] != "none":
        body |= {"ignore_eos": False, "response_format": None}
    for message in body.get("messages") or []:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = "{}"


def _fit_the_context(messages: list[dict[str, Any]]) -> None:
    """Drop turns, then parts of the one that is left, from the end."""
    parts = messages[0]["content"] if isinstance(messages[0].get("content"), list) else []
    for droppable in (messages, parts):
        while (
            len(droppable) > 1 and len(json.dumps(messages, ensure_ascii=False).encode("utf-8", "replace")) > CHAT_BYTES
        ):
            droppable.pop()


def _whole_numbers(value: Any) -> Any:
    """With 1.0, which JSON Schema calls an integer, as 1."""
    if isinstance(value, dict):
        return {name: _whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@schemathesis.check
def unavailable_and_nothing_worse(_: CheckContext, response: Response, __: Case[Any]) -> None:
    """Of all 5xx only the 503 that says when to come back, and that only where the cloud is down."""
    if response.status_code >= 500:
        assert response.status_code == 503, f"a {response.status_code}"
        assert "PIPESD_DOWN" in os.environ, "a 503 of a server that is up"
        assert response.headers["retry-after"][0].isdigit()


@schemathesis.check
def every_event_conforms(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """A stream is chunks as described, and then, without an error, its end."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    *events, rest = response.content.decode().split("\n\n")
    assert events, "an empty stream"
    assert not rest, "the last event is cut"
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]", f"the last event is {events[-1]!r}"
    name = "ChatCompletionChunk" if "chat" in case.operation.path else "CompletionChunk"
    schema = {"$ref": f"#/components/schemas/{name}", "components": description["components"]}
    validator = jsonschema_rs.validator_for(schema)
    for event in events[:-1]:
        validator.validate(json.loads(event.removeprefix("data: ")))
