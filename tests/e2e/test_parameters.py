"""Every parameter of the embedded engine, with drafts: the answer through an agent is the target's own, bit for bit.

The reference is the gateway's plain HTTP API, as in `test_identity`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from answers import Answer, ask
from harness import DRAFT, MODEL, Process, agent_thread, gateway, in_parallel, openai_client, prompts
from pydantic import BaseModel, Field

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_core.openai_parameters import TABLE
from pipesd_core.protocol.messages import Endpoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

PROMPTS = prompts(3)
TOKENS = 48
NONE = "none"
NEUTRAL: dict[str, Any] = {
    each.name: each.neutral[0] for each in TABLE if each.neutral and each.endpoint is not Endpoint.CHAT_COMPLETIONS
}
"""Values of parameters that are not served: they change nothing."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["function", "class", None]},
        "arguments": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 4}, "maxItems": 3},
        "line": {"type": "integer"},
    },
    "required": ["name", "kind", "line"],
}
PARAMETERS: dict[str, dict[str, Any]] = {
    NONE: {},
    "neutral": NEUTRAL | {"model": "default", "priority": 3, "mirostat_tau": 5.0, "keep_alive": "5m", "top_k": 0.0},
    "unknown": {"no_such_parameter": 1},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.8},
    "negative": {"presence_penalty": -0.6, "frequency_penalty": -0.1},
    "repetition": {"repetition_penalty": 1.3},
    "bias": {"logit_bias": {"12": 4, "69": -100, "268": -2.5}},
    "min_p": {"min_p": 0.25},
    "logprobs": {"logprobs": 5},
    "json_object": {"response_format": {"type": "json_object"}, "logprobs": 0},
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "json_schema, all": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "presence_penalty": 0.5,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.01,
    },
    "all": {
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"12": 2},
        "min_p": 0.05,
        "logprobs": 2,
        "top_k": 50,
        "top_p": 0.95,
    },
}
TEMPERATURES: dict[str, dict[str, Any]] = {"T=0": {"temperature": 0}, "T=1": {"temperature": 1, "seed": 2**40 + 77}}
CELLS = list(itertools.product(TEMPERATURES, PARAMETERS, PROMPTS))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    flags = ("--log-level", "warning", "--unknown-parameters", "ignore")
    with gateway(tmp_path_factory.mktemp("gateway"), *flags) as process:
        yield process


@pytest.fixture(scope="module")
def target_only(target: Process) -> list[Answer]:
    answers = in_parallel(lambda cell: ask(target.url, stream=False, **body(*cell)), CELLS, 4)
    assert all(answer.accepted == 0 for answer in answers)
    return answers


def body(temperature: str, parameters: str, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": TOKENS} | TEMPERATURES[temperature] | PARAMETERS[parameters]


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_the_answer_is_the_targets_own(target: Process, target_only: list[Answer], wrong: float) -> None:
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    with agent_thread(AgentConfig(gateway=target.root), drafter) as agent:
        numbered = list(enumerate(CELLS))
        answers = in_parallel(lambda item: ask(agent.url, stream=item[0] % 2 == 0, **body(*item[1])), numbered, 4)
    accepted = tokens = 0
    for cell, answer, own in zip(CELLS, answers, target_only, strict=True):
        assert answer.choices == own.choices, cell
        assert answer.tokens == own.tokens, cell
        accepted += answer.accepted
        tokens += answer.tokens
    assert tokens > 20 * len(CELLS), "the answers are too short to prove anything"
    assert accepted > 0.1 * tokens, "hardly anything was drafted: this proves little"
    print(f"{len(CELLS)} answers, {tokens} tokens, {accepted} of them drafted")


def test_every_parameter_changes_some_answer(target_only: list[Answer]) -> None:
    texts = {cell: answer.text for cell, answer in zip(CELLS, target_only, strict=True)}
    for temperature, parameters in itertools.product(TEMPERATURES, PARAMETERS):
        same = all(texts[temperature, parameters, p] == texts[temperature, NONE, p] for p in PROMPTS)
        changes = parameters not in {NONE, "neutral", "unknown", "logprobs"} and (temperature, parameters) != (
            "T=0",
            "min_p",
        )
        assert same != changes, (temperature, parameters)


def test_answers_are_json_of_their_schema(target_only: list[Answer]) -> None:
    complete = 0
    for (_, parameters, _), answer in zip(CELLS, target_only, strict=True):
        if parameters.startswith("json") and answer.choices[0].reason == "stop":
            value = json.loads(answer.text)
            assert isinstance(value, dict)
            if parameters != "json_object":
                complete += 1
                assert set(value) - {"arguments"} == {"name", "kind", "line"}
                assert value["kind"] in SCHEMA["properties"]["kind"]["enum"]
                assert isinstance(value["line"], int)
                assert all(1 <= len(argument) <= 4 for argument in value.get("arguments", []))
    assert complete > 3


def test_logprobs_are_those_of_the_text(target_only: list[Answer]) -> None:
    for (temperature, parameters, _), answer in zip(CELLS, target_only, strict=True):
        logprobs = answer.choices[0].logprobs
        assert (logprobs is not None) == ("logprobs" in PARAMETERS[parameters])
        if logprobs is not None:
            assert len(logprobs["tokens"]) == answer.tokens
            if parameters == "logprobs" and temperature == "T=0":
                for token, logprob, top in zip(*(logprobs[name] for name in _COMPLETION), strict=True):
                    assert logprob == top[token] == max(top.values())


_COMPLETION = ("tokens", "token_logprobs", "top_logprobs")


def test_chat_logprobs(target: Process) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Write `add`."}],
        "max_tokens": 40,
        "top_logprobs": 3,
    }
    with agent_thread(AgentConfig(gateway=target.root), WrongDrafter(LlamaDrafter(DRAFT), 0.3)) as agent:
        for sampling in TEMPERATURES.values():
            answers = [
                ask(url, stream=stream, logprobs=True, **body, **sampling)
                for url in (target.url, agent.url)
                for stream in (False, True)
            ]
            own = answers[0]
            assert all(answer.choices == own.choices for answer in answers)
            assert sum(answer.accepted for answer in answers) > 0
            told = own.choices[0].logprobs
            assert told is not None
            shown = bytes(byte for entry in told["content"][:-1] for byte in entry["bytes"])
            assert shown.decode("utf-8", "replace").startswith(own.text[:20])
            assert {len(entry["top_logprobs"]) for entry in told["content"]} == {3}


class Argument(BaseModel):
    name: str = Field(description="of the argument", max_length=6)
    kind: Literal["positional", "keyword"]


class Function(BaseModel):
    """What is asked for."""

    name: str = Field(max_length=10)
    arguments: list[Argument] = Field(max_length=2)
    returns: bool | None


def test_a_model_class_with_the_openai_client(target: Process) -> None:
    with agent_thread(AgentConfig(gateway=target.root), LlamaDrafter(DRAFT)) as agent:
        texts = set()
        for url in (target.url, agent.url):
            answer = openai_client(url).chat.completions.parse(
                model=MODEL,
                messages=[{"role": "user", "content": "Describe `add` as JSON."}],
                response_format=Function,
                max_tokens=200,
                seed=3,
                temperature=0.7,
            )
            message = answer.choices[0].message
            assert isinstance(message.parsed, Function)
            texts.add(message.content)
        assert len(texts) == 1
