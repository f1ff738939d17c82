from __future__ import annotations

import asyncio

import pytest

from pipesd_core.errors import Overloaded, Unavailable
from pipesd_core.llamacpp.runtime.admission_queue import RETRY_AFTER_S, Places


async def started(*waiters: asyncio.Task[None]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)


async def test_places_are_given_in_the_order_of_asking() -> None:
    places = Places(2, max_queue=8)
    await places.take()
    await places.take()
    order: list[int] = []

    async def ask(number: int) -> None:
        await places.take()
        order.append(number)

    tasks = [asyncio.create_task(ask(number)) for number in range(3)]
    await started(*tasks)
    for _ in range(3):
        places.give_back()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert places.free == 0
    places.give_back()
    assert places.free == 1


async def test_a_full_queue_refuses_and_says_how_full_it_is() -> None:
    places = Places(1, max_queue=1)
    await places.take()
    waiter = asyncio.create_task(places.take())
    await started(waiter)
    with pytest.raises(Overloaded, match=r"all 1 places .* 1 requests wait") as caught:
        await places.take()
    assert caught.value.headers() == {"retry-after": str(RETRY_AFTER_S)}
    places.give_back()
    await waiter


async def test_a_cancelled_waiter_leaves_the_queue() -> None:
    places = Places(1, max_queue=2)
    await places.take()
    first, second = asyncio.create_task(places.take()), asyncio.create_task(places.take())
    await started(first, second)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    places.give_back()
    await asyncio.wait_for(second, 1)
    assert places.free == 0


async def test_a_waiter_cancelled_just_after_its_turn_came_passes_the_place_on() -> None:
    places = Places(1, max_queue=2)
    await places.take()
    first, second = asyncio.create_task(places.take()), asyncio.create_task(places.take())
    await started(first, second)
    places.give_back()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 1)
    places.give_back()
    assert places.free == 1


async def test_closing_refuses_those_who_wait_and_those_who_come() -> None:
    places = Places(1, max_queue=2)
    await places.take()
    waiter = asyncio.create_task(places.take())
    await started(waiter)
    places.close(Unavailable("shutting down"))
    with pytest.raises(Unavailable, match="shutting down"):
        await waiter
    with pytest.raises(Unavailable, match="shutting down"):
        await places.take()


async def test_closing_just_after_a_turn_came_refuses_it_too() -> None:
    places = Places(1, max_queue=2)
    await places.take()
    waiter = asyncio.create_task(places.take())
    await started(waiter)
    places.give_back()
    places.close(Unavailable("shutting down"))
    with pytest.raises(Unavailable, match="shutting down"):
        await waiter
