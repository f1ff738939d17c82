"""The embedded llama.cpp engine, with the demo target, follows the rules of engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from engine_rules import CLOSING_RULES, RULES, NotOffered, Rule, Subject
from harness import LONG, MODEL, TARGET

from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

pytestmark = pytest.mark.e2e

MAX_RUNNING = 4
ENDING = "<|user|>Hi<|assistant|>"
"""Its answer ends with EOS after 111 tokens."""


@asynccontextmanager
async def running() -> AsyncIterator[Subject]:
    decoder = await asyncio.to_thread(TargetDecoder, TARGET, n_seq=MAX_RUNNING, n_ctx_seq=512)
    engine = EmbeddedEngine(decoder, name=MODEL)
    try:
        yield Subject(
            engine,
            prompt=tuple(decoder.model.tokenize(LONG, special=True)),
            ending=tuple(decoder.model.tokenize(ENDING, special=True)),
            max_running=MAX_RUNNING,
        )
    finally:
        await engine.aclose()


@pytest.mark.parametrize("rule", [*RULES, *CLOSING_RULES], ids=lambda rule: rule.__name__)
async def test_the_embedded_engine_follows(rule: Rule) -> None:
    async with running() as subject:
        try:
            await rule(subject)
        except NotOffered as reason:
            pytest.skip(f"not offered: {reason}")
