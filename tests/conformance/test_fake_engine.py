"""The fake engine follows the rules of engines, so what is tested with it is tested with an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import engine_rules
import msgspec
import numpy as np
import pytest
from engine_rules import (
    CLOSING_RULES,
    LENGTH,
    RULES,
    NotOffered,
    Rule,
    Subject,
    an_abort_touches_nobody_else,
    closing_breaks_what_runs,
    drafts_change_nothing_at_temperature_0,
    drafts_outside_the_vocabulary_are_refused,
)
from msgspec.structs import replace

from pipesd_core.engine import fake
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.fake import EOS, INFO, FakeEngine, FakeGeneration, by_logits, script
from pipesd_core.engine.interface import Broken, EngineOutput, Payload, Queued, StepDone
from pipesd_core.errors import EngineFailed, InvalidRequest, Overloaded, Unavailable
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.sampler import Logits

PROMPT = tuple(b"abc")
ENDING = tuple(b"the end")
MAX_RUNNING = 3


def logits(ids: Sequence[int]) -> Logits:
    """Logits of letters, a function of the last three ids; after the prompt ENDING there is an EOS in sixth place."""
    row = np.full(INFO.n_vocab, -20.0, np.float32)
    row[97:123] = np.random.default_rng(sum(ids[-3:]) * 7 + ids[-1]).normal(size=26) * 2
    if tuple(ids[: len(ENDING)]) == ENDING and len(ids) == len(ENDING) + 5:
        row[EOS] = 50.0
    return row


def subject() -> Subject:
    engine = FakeEngine(by_logits(logits, INFO.n_vocab), max_running=MAX_RUNNING)
    return Subject(engine, prompt=PROMPT, ending=ENDING, max_running=MAX_RUNNING)


@pytest.mark.parametrize("drafts_with_prompt", [True, False])
@pytest.mark.parametrize("rule", [*RULES, *CLOSING_RULES], ids=lambda rule: rule.__name__)
async def test_the_fake_engine_follows(rule: Rule, drafts_with_prompt: bool) -> None:
    under_test = subject()
    assert isinstance(under_test.engine, FakeEngine)
    under_test.engine.drafts_with_prompt = drafts_with_prompt
    try:
        await rule(under_test)
    except NotOffered as reason:
        pytest.skip(f"not offered: {reason}")


# Engines that do not follow are found out.


async def _does_nothing(_: FakeEngine) -> None: ...


def _takes_all(generation: FakeGeneration, drafts: tuple[int, ...]) -> StepDone:
    generation.output += drafts or (97,)
    return StepDone(drafts or (97,), len(drafts), len(drafts), 0, 0, ends=len(generation.output) >= LENGTH)


def _goes_on(generation: FakeGeneration) -> None:
    generation.aborted = True


def _tells_text_first(generation: FakeGeneration, done: StepDone) -> list[Payload]:
    payloads = FakeGeneration.payloads(generation, done)
    return [replace(payload, upto=payload.upto + 1) for payload in payloads]


FAULTS: dict[str, tuple[object, str, object, Rule]] = {
    "ids are not looked at": (fake, "fault", lambda *_: None, drafts_outside_the_vocabulary_are_refused),
    "it cannot be closed": (FakeEngine, "aclose", _does_nothing, closing_breaks_what_runs),
    "drafts are believed": (FakeGeneration, "_take", _takes_all, drafts_change_nothing_at_temperature_0),
    "aborted ones go on": (FakeGeneration, "abort", _goes_on, an_abort_touches_nobody_else),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_an_engine_that_does_not_follow_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, instead, rule = FAULTS[name]
    monkeypatch.setattr(engine_rules, "WAIT_S", 0.5)
    monkeypatch.setattr(where, attribute, instead, raising=False)
    with pytest.raises((AssertionError, TimeoutError)):
        await rule(subject())


async def test_text_that_is_told_before_its_tokens_is_found_out() -> None:
    engine = FakeEngine(by_logits(logits, INFO.n_vocab), payloads=_tells_text_first)
    with pytest.raises(AssertionError, match="the text of 2 tokens after StepDones of 1"):
        await drafts_change_nothing_at_temperature_0(Subject(engine, prompt=PROMPT, ending=ENDING))


# What a test makes it do.


async def test_it_writes_a_script() -> None:
    answer = TargetOnlyGeneration(FakeEngine(script(b"hi there")))
    await answer.open(Endpoint.CHAT_COMPLETIONS, b'{"messages": [{"role": "user", "content": "Hi?"}], "stop": "re"}')
    payload = await answer.next()
    assert payload is not None
    assert msgspec.json.decode(payload.data)["choices"][0]["message"]["content"] == "hi the"
    assert (payload.upto, payload.usage) == (8, True)
    assert await answer.next() is None


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  a fake has no event for it
            await asyncio.sleep(0.005)


async def test_it_refuses_and_breaks_and_is_slow_as_it_is_told() -> None:
    engine = FakeEngine(script(b"abc"), max_running=1, max_queue=0)
    engine.refusals.append(Unavailable("not yet"))
    outputs: list[EngineOutput] = []
    with pytest.raises(Unavailable, match="not yet"):
        await engine.open(Endpoint.COMPLETIONS, b'{"prompt": "x"}', outputs.append)
    generation = await engine.open(Endpoint.COMPLETIONS, b'{"prompt": "x"}', outputs.append)
    with pytest.raises(Overloaded):
        await engine.open(Endpoint.COMPLETIONS, b'{"prompt": "x"}', outputs.append)
    engine.delay_s = 0.05
    began = time.monotonic()
    generation.step(())
    await _until(lambda: len(outputs) == 2)
    assert time.monotonic() - began >= 0.05
    assert [type(output) for output in outputs] == [Queued, StepDone]
    engine.step_output = Broken(EngineFailed("boom"))
    generation.step(())
    await _until(lambda: len(outputs) == 3)
    assert outputs[2:] == [engine.step_output]
    assert generation.over
    assert not generation.aborted


@pytest.mark.parametrize(
    ("body", "param"),
    [(b'{"prompt": "x", "best_of": 2}', "best_of"), (b'{"prompt": "x", "top_k": "5"}', "top_k"), (b"[", None)],
)
async def test_it_names_what_is_wrong_with_a_body(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await FakeEngine(script(b"")).open(Endpoint.COMPLETIONS, body, lambda _: None)
    assert refused.value.param == param
