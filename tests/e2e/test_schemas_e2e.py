"""JSON schemas as zod and pydantic write them, over real engines: the answer through an agent is the target's own, and
satisfies its schema; a schema that cannot be held to is a 400 before anything is written.
"""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import httpx
import numpy as np
import pytest
from answers import Answer, ask
from constraints import drawn
from harness import DRAFT, Process, agent_thread, gateway, in_parallel, prompts
from hypothesis import HealthCheck, Phase, given, seed, settings
from json_schemas import check, schemas
from pydantic import BaseModel, Field
from repository import BUILD

from bench.faulty_drafter import WrongDrafter
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_core.errors import InvalidRequest
from pipesd_core.llamacpp.binding import Model
from pipesd_core.llamacpp.openai.json_schema import grammar_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: Annotated[int, Field(ge=-5, le=5)]


class Node(BaseModel):
    kind: Literal["node"]
    below: Annotated[list[Annotated[Node | Leaf, Field(discriminator="kind")]], Field(max_length=1)]


class Booking(BaseModel):
    nights: Annotated[int, Field(gt=0, le=14)]
    price: Annotated[float, Field(ge=0, lt=100)]
    day: datetime.date
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\\d{3}$")]
    place: tuple[int, Literal["a", "b"]]
    note: Annotated[str, Field(max_length=8)] | None = None


SCHEMAS: dict[str, Any] = {
    "pydantic": Booking.model_json_schema(),
    "recursive": Node.model_json_schema(),
    # As zod 4 writes z.object({ id: z.int(), at: z.iso.date(), pair: z.tuple([z.int(), z.boolean()]) }).
    "zod": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
            "at": {"type": "string", "format": "date"},
            "pair": {
                "type": "array",
                "prefixItems": [{"type": "integer", "exclusiveMinimum": 0, "maximum": 99}, {"type": "boolean"}],
            },
        },
        "required": ["id", "at", "pair"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 0.5, "maximum": 9}},
    "any object": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "boolean"}},
}
SAMPLING: dict[str, dict[str, Any]] = {
    "T=0": {"temperature": 0},
    "T=0.8": {"temperature": 0.8, "seed": 7},
    "T=1, top_p": {"temperature": 1, "seed": 2**40 + 3, "top_p": 0.9, "presence_penalty": 0.5},
}
PROMPTS = prompts(1)
CELLS = list(itertools.product(SCHEMAS, SAMPLING, PROMPTS))


def body(schema: str, sampling: str, prompt: str) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS[schema]}}
    return {"prompt": prompt, "max_tokens": 100, "response_format": form} | SAMPLING[sampling]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--log-level", "warning") as process:
        yield process


@pytest.fixture(scope="module")
def target_only(target: Process) -> list[Answer]:
    return in_parallel(lambda cell: ask(target.url, stream=False, **body(*cell)), CELLS, 4)


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_the_answer_is_the_targets_own(target: Process, target_only: list[Answer], wrong: float) -> None:
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    with agent_thread(AgentConfig(gateway=target.root), drafter) as agent:
        numbered = list(enumerate(CELLS))
        answers = in_parallel(lambda item: ask(agent.url, stream=item[0] % 2 == 0, **body(*item[1])), numbered, 4)
    accepted = sent = 0
    for cell, answer, own in zip(CELLS, answers, target_only, strict=True):
        assert answer.choices == own.choices, cell
        accepted += answer.accepted
        drafts = answer.usage["pipesd"]
        sent += drafts["accepted"] + drafts["rejected"]
    tokens = sum(answer.tokens for answer in answers)
    print(f"{tokens} tokens, {sent} drafts judged, {accepted} of them right")
    assert accepted > 0.2 * tokens, "hardly anything was drafted: this proves little"


def test_complete_answers_satisfy_their_schemas(target_only: list[Answer]) -> None:
    complete = dict.fromkeys(SCHEMAS, 0)
    for (schema, _, _), answer in zip(CELLS, target_only, strict=True):
        if answer.choices[0].reason == "stop":
            complete[schema] += 1
            check(answer.text, SCHEMAS[schema])
            if schema == "pydantic":
                Booking.model_validate_json(answer.text)
            if schema == "recursive":
                Node.model_validate_json(answer.text)
            if schema == "map":
                numbers = json.loads(answer.text, parse_float=Decimal).values()
                assert all(number % Decimal("0.5") == 0 for number in numbers)
    assert min(complete.values()) > 0, complete
    assert sum(complete.values()) > len(CELLS) / 2, complete


def test_what_cannot_be_held_to_is_refused_before_anything_is_written(target: Process) -> None:
    with agent_thread(AgentConfig(gateway=target.root), LlamaDrafter(DRAFT)) as agent:
        for url, stream in itertools.product((target.url, agent.url), (False, True)):
            schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            answer = httpx.post(f"{url}/completions", json={"prompt": "x", "stream": stream, "response_format": form})
            assert answer.status_code == 400
            param = "response_format.json_schema.schema.properties.a.uniqueItems"
            assert answer.json()["error"]["param"] == param
            assert param in answer.json()["error"]["message"]


def test_whatever_is_drawn_of_the_demo_targets_tokens_satisfies_a_random_schema() -> None:
    """Odd tokens among them: bytes that are no characters, control tokens, ends."""
    with Model(BUILD / "demo-target-F32.gguf") as model:
        pieces = [model.piece(token, special=False) for token in range(model.n_vocab)]
        complete = 0

        @settings(max_examples=60, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate])
        @seed(4)
        @given(schemas())
        def each(schema: Any) -> None:
            nonlocal complete
            try:
                constraint = model.constraint(grammar_of(schema, "here"))
            except InvalidRequest:
                return
            if (text := drawn(constraint, pieces, model.eog_ids, np.random.default_rng(5), 150)) is not None:
                complete += 1
                check(text, schema)

        each()
        assert complete > 15
