"""Work that a client waits for: until it is done, has been in the queue for a while, or the client is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from pipesd_core.errors import Overloaded
from pipesd_core.service import queued_stream
from pipesd_core.service.http import ClientGone
from pipesd_core.service.queued_stream import Beginning


class Client:
    """Says nothing after its request, until it leaves."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Done when `turn` is set; it then returns "made", or raises `failure`."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.turn = asyncio.Event()
        self.cancelled = False
        self.failure = failure

    async def __call__(self) -> str:
        try:
            await self.turn.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.failure is not None:
            raise self.failure
        return "made"


@pytest.fixture
def queued() -> asyncio.Event:
    queued = asyncio.Event()
    queued.set()
    return queued


async def test_what_is_done_at_once_is_not_waited_for(queued: asyncio.Event) -> None:
    work = Work()
    work.turn.set()
    beginning = Beginning(work())
    await beginning.reached(Client().request, queued)
    assert beginning.done
    assert await beginning.result() == "made"
    beginning.cancel()
    assert await beginning.unwanted() == "made", "whoever does not want it has to release it"


async def test_what_fails_at_once_is_raised(queued: asyncio.Event) -> None:
    work = Work(Overloaded("full"))
    work.turn.set()
    beginning = Beginning(work())
    with pytest.raises(Overloaded):
        await beginning.reached(Client().request, queued)
    assert await beginning.unwanted() is None


async def test_after_a_while_in_the_queue_it_is_waited_for_elsewhere(
    queued: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queued_stream, "PATIENCE_S", 0.01)
    work = Work(Overloaded("too late"))
    beginning = Beginning(work())
    await beginning.reached(Client().request, queued)
    assert not beginning.done
    assert not work.cancelled
    work.turn.set()
    with pytest.raises(Overloaded, match="too late"):
        await beginning.result()


async def test_what_is_not_in_the_queue_is_waited_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued_stream, "PATIENCE_S", 0.0)
    work, queued = Work(), asyncio.Event()
    beginning = Beginning(work())
    reached = asyncio.create_task(beginning.reached(Client().request, queued))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not reached.done()
    work.turn.set()
    await reached
    assert beginning.done


async def test_a_client_that_leaves_takes_its_request_back(queued: asyncio.Event) -> None:
    client, work = Client(), Work()
    beginning = Beginning(work())
    client.left.set()
    with pytest.raises(ClientGone):
        await beginning.reached(client.request, queued)
    assert await beginning.unwanted() is None
    assert work.cancelled


async def test_who_waits_for_the_result_and_is_cancelled_takes_it_back() -> None:
    work = Work()
    beginning = Beginning(work())
    waiting = asyncio.create_task(beginning.result())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await beginning.unwanted() is None
    assert work.cancelled
