from __future__ import annotations

import asyncio

import pytest

from pipesd_vllm.batcher import Batcher


async def test_one_turn_of_the_loop_is_one_call() -> None:
    calls = []

    async def verify(items: list[tuple[str, list[int]]]) -> list[str]:
        calls.append(items)
        return [f"{key}: {len(drafts)}" for key, drafts in items]

    batcher = Batcher(verify)
    answers = await asyncio.gather(batcher.submit("a", (1, 2)), batcher.submit("b", ()))
    assert list(answers) == ["a: 2", "b: 0"]
    assert await batcher.submit("c", (3,)) == "c: 1"
    assert calls == [[("a", [1, 2]), ("b", [])], [("c", [3])]]


async def test_everybody_hears_that_the_engine_is_dead() -> None:
    async def verify(_: list[tuple[str, list[int]]]) -> list[str]:
        raise RuntimeError("dead")

    batcher = Batcher(verify)
    left, stays = batcher.submit("a", ()), batcher.submit("b", ())
    left.cancel()  # a client that is gone
    with pytest.raises(RuntimeError, match="dead"):
        await stays
