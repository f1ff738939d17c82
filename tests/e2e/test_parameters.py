"""Every parameter of the embedded engine, with drafts: the answer through an agent is the target's own, bit for bit.

The reference is the gateway's plain HTTP API, as in `test_identity`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Answer, ask
from harness import DRAFT, Process, agent_thread, gateway, in_parallel, prompts

from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.llama import LlamaDrafter
from pipesd_agent.drafting.types import Drafter
from pipesd_agent.drafting.wrong import WrongDrafter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

PROMPTS = prompts(3)
TOKENS = 48
NONE = "none"
PARAMETERS: dict[str, dict[str, Any]] = {
    NONE: {},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.8},
    "negative": {"presence_penalty": -0.6, "frequency_penalty": -0.1},
    "repetition": {"repetition_penalty": 1.3},
    "bias": {"logit_bias": {"12": 4, "69": -100, "268": -2.5}},
    "min_p": {"min_p": 0.25},
    "all": {
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"12": 2},
        "min_p": 0.05,
        "top_k": 50,
        "top_p": 0.95,
    },
}
TEMPERATURES: dict[str, dict[str, Any]] = {"T=0": {"temperature": 0}, "T=1": {"temperature": 1, "seed": 2**40 + 77}}
CELLS = list(itertools.product(TEMPERATURES, PARAMETERS, PROMPTS))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with gateway(tmp_path_factory.mktemp("gateway"), "--log-level", "warning") as process:
        yield process


@pytest.fixture(scope="module")
def alone(target: Process) -> list[Answer]:
    answers = in_parallel(lambda cell: ask(target.url, stream=False, **body(*cell)), CELLS, 4)
    assert all(answer.accepted == 0 for answer in answers)
    return answers


def body(temperature: str, parameters: str, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": TOKENS} | TEMPERATURES[temperature] | PARAMETERS[parameters]


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_the_answer_is_the_targets_own(target: Process, alone: list[Answer], wrong: float) -> None:
    drafter: Drafter = LlamaDrafter(DRAFT)
    if wrong:
        drafter = WrongDrafter(drafter, wrong)
    with agent_thread(AgentConfig(gateway=target.root), drafter) as agent:
        numbered = list(enumerate(CELLS))
        answers = in_parallel(lambda item: ask(agent.url, stream=item[0] % 2 == 0, **body(*item[1])), numbered, 4)
    accepted = tokens = 0
    for cell, answer, own in zip(CELLS, answers, alone, strict=True):
        assert answer.choices == own.choices, cell
        assert answer.tokens == own.tokens, cell
        accepted += answer.accepted
        tokens += answer.tokens
    assert tokens > 20 * len(CELLS), "the answers are too short to prove anything"
    assert accepted > 0.1 * tokens, "hardly anything was drafted: this proves little"
    print(f"{len(CELLS)} answers, {tokens} tokens, {accepted} of them drafted")


def test_every_parameter_changes_some_answer(alone: list[Answer]) -> None:
    texts = {cell: answer.text for cell, answer in zip(CELLS, alone, strict=True)}
    for temperature, parameters in itertools.product(TEMPERATURES, PARAMETERS):
        same = all(texts[temperature, parameters, p] == texts[temperature, NONE, p] for p in PROMPTS)
        assert same == (parameters == NONE or (temperature, parameters) == ("T=0", "min_p")), (temperature, parameters)
