from __future__ import annotations

import asyncio
import time

import pytest

from pipesd_vllm.rpc_coalescer import Order, RpcCoalescer


async def test_one_turn_of_the_loop_is_one_call() -> None:
    calls = []

    async def verify(orders: list[Order]) -> list[str]:
        calls.append([order[:3] for order in orders])
        assert all(0 <= time.monotonic() - asked_at < 10 for *_, asked_at in orders)
        return [f"{key}: {len(drafts)}" for key, drafts, *_ in orders]

    coalescer = RpcCoalescer(verify)
    answers = await asyncio.gather(coalescer.submit("a", (1, 2)), coalescer.submit("b", ()))
    assert list(answers) == ["a: 2", "b: 0"]
    assert await coalescer.submit("c", (3,), 15) == "c: 1"
    assert calls == [[("a", [1, 2], 0), ("b", [], 0)], [("c", [3], 15)]]


async def test_everybody_hears_that_the_engine_is_dead() -> None:
    async def verify(_: list[Order]) -> list[str]:
        raise RuntimeError("dead")

    coalescer = RpcCoalescer(verify)
    left, stays = coalescer.submit("a", ()), coalescer.submit("b", ())
    left.cancel()  # a client that is gone
    with pytest.raises(RuntimeError, match="dead"):
        await stays


async def test_nobody_waits_for_ever_where_results_are_missing() -> None:
    async def verify(_: list[Order]) -> list[str]:
        return ["ok"]

    coalescer = RpcCoalescer(verify)
    answers = coalescer.submit("a", ()), coalescer.submit("b", ())
    async with asyncio.timeout(10):
        for answer in answers:
            with pytest.raises(ValueError, match="1 results for 2 orders"):
                await answer
