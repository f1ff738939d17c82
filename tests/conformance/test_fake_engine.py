"""The fake engine follows the rules of engines, so what is tested with it is tested with an engine."""

from __future__ import annotations

from collections.abc import Sequence

import engine_rules
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
from pipesd_core.engine.fake import EOS, INFO, FakeEngine, FakeGeneration, by_logits
from pipesd_core.engine.interface import Payload, StepDone
from pipesd_core.sampling.sampler import Logits

PROMPT = tuple(b"abc")
ENDING = tuple(b"the end")
PLACES = 3


def logits(ids: Sequence[int]) -> Logits:
    """Of letters, a function of the last three ids; after the prompt ENDING there is an EOS in sixth place."""
    row = np.full(INFO.n_vocab, -20.0, np.float32)
    row[97:123] = np.random.default_rng(sum(ids[-3:]) * 7 + ids[-1]).normal(size=26) * 2
    if tuple(ids[: len(ENDING)]) == ENDING and len(ids) == len(ENDING) + 5:
        row[EOS] = 50.0
    return row


def subject() -> Subject:
    engine = FakeEngine(by_logits(logits, INFO.n_vocab), places=PLACES)
    return Subject(engine, prompt=PROMPT, ending=ENDING, places=PLACES)


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
    said = FakeGeneration.payloads(generation, done)
    return [replace(payload, upto=payload.upto + 1) for payload in said]


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
