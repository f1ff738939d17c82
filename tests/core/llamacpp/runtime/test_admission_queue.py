from __future__ import annotations

import asyncio

import pytest

from pipesd_core.errors import Overloaded, Unavailable
from pipesd_core.llamacpp.runtime import admission_queue
from pipesd_core.llamacpp.runtime.admission_queue import AdmissionQueue
from pipesd_core.occupancy import Occupancy


async def started(*waiters: asyncio.Task[None]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)


async def test_places_are_given_in_the_order_of_asking() -> None:
    queue = AdmissionQueue(2, max_queue=8)
    await queue.acquire()
    await queue.acquire()
    order: list[int] = []

    async def ask(number: int) -> None:
        await queue.acquire()
        order.append(number)

    tasks = [asyncio.create_task(ask(number)) for number in range(3)]
    await started(*tasks)
    for _ in range(3):
        queue.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert queue.free_slots == 0
    queue.release()
    assert queue.free_slots == 1


async def test_a_full_queue_refuses_and_says_how_full_it_is() -> None:
    queue = AdmissionQueue(1, max_queue=1)
    await queue.acquire()
    waiter = asyncio.create_task(queue.acquire())
    await started(waiter)
    with pytest.raises(Overloaded, match=r"all 1 places .* 1 requests wait") as caught:
        await queue.acquire()
    assert caught.value.retry_after_s >= 1
    queue.release()
    await waiter


@pytest.mark.parametrize(("n_slots", "hold_s", "max_queue"), [(1, 8.0, 1), (4, 20.0, 5), (2, 3.0, 16)])
async def test_a_refused_call_is_told_how_long_those_ahead_take(
    monkeypatch: pytest.MonkeyPatch, n_slots: int, hold_s: float, max_queue: int
) -> None:
    now = 0.0
    monkeypatch.setattr(admission_queue, "Occupancy", lambda: Occupancy(lambda: now))
    queue = AdmissionQueue(n_slots, max_queue)
    for _ in range(n_slots):
        await queue.acquire()
        now += hold_s / n_slots
    waiting: list[asyncio.Task[None]] = []
    for _ in range(80):
        waiting += [asyncio.create_task(queue.acquire()) for _ in range(max_queue - queue.queued)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await queue.acquire()
        queue.release()
        now += hold_s / n_slots
    assert caught.value.retry_after_s == pytest.approx(hold_s / n_slots * (max_queue + 1), rel=0.2)
    told = {caught.value.headers()["retry-after-ms"] for _ in range(50)}
    assert len(told) > 25, "all that are refused would come back in one moment"
    queue.close(Unavailable("over"))
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    queue = AdmissionQueue(1, max_queue=2)
    await queue.acquire()
    first, second = asyncio.create_task(queue.acquire()), asyncio.create_task(queue.acquire())
    await started(first, second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    queue.release()
    await asyncio.wait_for(second, 60)
    assert queue.free_slots == 0


async def test_a_waiter_cancelled_just_after_its_turn_came_passes_the_place_on() -> None:
    queue = AdmissionQueue(1, max_queue=2)
    await queue.acquire()
    first, second = asyncio.create_task(queue.acquire()), asyncio.create_task(queue.acquire())
    await started(first, second)
    queue.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 60)
    queue.release()
    assert queue.free_slots == 1


async def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    queue = AdmissionQueue(1, max_queue=2)
    await queue.acquire()
    waiter = asyncio.create_task(queue.acquire())
    await started(waiter)
    queue.close(Unavailable("shutting down"))
    with pytest.raises(Unavailable, match="shutting down"):
        await waiter
    with pytest.raises(Unavailable, match="shutting down"):
        await queue.acquire()


async def test_closing_just_after_a_turn_came_refuses_it_too() -> None:
    queue = AdmissionQueue(1, max_queue=2)
    await queue.acquire()
    waiter = asyncio.create_task(queue.acquire())
    await started(waiter)
    queue.release()
    queue.close(Unavailable("shutting down"))
    with pytest.raises(Unavailable, match="shutting down"):
        await waiter
