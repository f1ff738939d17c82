"""The worker says how long a token took, where that is all that the forward did."""

from __future__ import annotations

import asyncio

from test_worker import PARAMS, FakeDrafter, unexpected, until

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.drafting.worker import DraftWorker


async def test_tokens_are_timed_but_for_those_that_caught_up() -> None:
    drafter = FakeDrafter()
    drafter.delay_s = 0.01
    worker = DraftWorker(drafter)
    tokens: list[DraftToken] = []
    lane = worker.open([1, 2, 3], PARAMS, frozenset(), lambda _, t: tokens.append(t) if t else None, unexpected)
    assert lane
    lane.commit([], 9)
    await until(lambda: len(tokens) == 6)
    assert all(0.009 < token.seconds < 9 for token in tokens[1:]), "the prompt may have come with the first"
    lane.commit([t.token for t in tokens] + [5, 6, 7], 13)  # two more to feed than the last one
    await until(lambda: len(tokens) == 7)
    assert tokens[6].seconds == 0.0
    await worker.aclose()


async def test_a_forward_that_feeds_another_prompt_is_no_measure() -> None:
    drafter = FakeDrafter()
    drafter.delay_s = 0.005
    worker = DraftWorker(drafter)
    tokens: list[DraftToken] = []
    lane = worker.open([1, 2, 3], PARAMS, frozenset(), lambda _, t: tokens.append(t) if t else None, unexpected)
    assert lane
    lane.commit([], 100)
    await until(lambda: len(tokens) == 3)
    worker.open([1] * 200, PARAMS, frozenset(), lambda *_: None, unexpected)
    await until(lambda: any(feed for _, feed in drafter.calls))
    await until(lambda: drafter.fed.get(1, 0) > 100)
    await asyncio.sleep(0.02)
    assert any(token.seconds == 0.0 for token in tokens[3:])
    await worker.aclose()
