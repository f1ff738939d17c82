"""The HTTP parts that both programs share, at their edges; what a server does with them is in test_server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from pipesd_core.errors import Overloaded, Unavailable
from pipesd_core.service import http
from pipesd_core.service.http import (
    BodyTooLarge,
    ClientGone,
    EventStream,
    error_response,
    json_response,
    read_body,
    while_connected,
)

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}


class Client:
    """What an ASGI server says of a client: these messages, then nothing until it leaves."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)
        self.left = asyncio.Event()
        self.request = Request(SCOPE, self.receive)

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 6)
    assert await read_body(Client(part(b"abc", more=True), part(b"", more=True), part(b"def")).request) == b"abcdef"
    endless = Client(*[part(b"abc", more=True)] * 1000)
    with pytest.raises(BodyTooLarge, match="limit of 6 bytes"):
        await read_body(endless.request)


async def test_a_client_that_leaves_in_its_body() -> None:
    with pytest.raises(ClientGone):
        await read_body(Client(part(b"abc", more=True), {"type": "http.disconnect"}).request)


async def test_work_is_done_while_the_client_is_there() -> None:
    async def work() -> int:
        await asyncio.sleep(0.01)
        return 7

    async def fail() -> None:
        raise Unavailable("no")

    assert await while_connected(Client().request, work()) == 7
    with pytest.raises(Unavailable):
        await while_connected(Client().request, fail())


async def test_work_is_cancelled_when_the_client_leaves_or_the_server_stops() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up takes a while
            ended.append("work")

    client = Client()
    waiting = asyncio.create_task(while_connected(client.request, work()))
    await asyncio.sleep(0.01)
    client.left.set()
    with pytest.raises(ClientGone):
        await waiting
    assert ended == ["work"]

    waiting = asyncio.create_task(while_connected(Client().request, work()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["work", "work"]
    assert len(asyncio.all_tasks()) == 1, "nothing is left running"


async def served(events: AsyncIterator[bytes], client: Client, send: Any) -> int:
    """Runs an EventStream to its end; returns how often `done` was called."""
    done: list[None] = []
    stream = EventStream(events, lambda: done.append(None), {"x-a": "b"})
    try:
        await stream(SCOPE, client.receive, send)
    finally:
        assert len(done) == 1
    return len(done)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"data: {}\n\n"
        await asyncio.sleep(0.001)


async def test_a_stream_is_done_with_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    async def take(message: dict[str, Any]) -> None:
        sent.append(message)

    async def two() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    assert await served(two(), Client(), take) == 1
    assert [message.get("body") for message in sent[1:]] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert (b"x-a", b"b") in sent[0]["headers"]

    client = Client()
    asyncio.get_running_loop().call_later(0.02, client.left.set)
    assert await served(endless(), client, take) == 1

    async def broken() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await served(broken(), Client(), take)

    async def refuse(_: dict[str, Any]) -> None:
        raise OSError("broken pipe")

    with pytest.raises(OSError, match="broken pipe"):
        await served(two(), Client(), refuse)

    monkeypatch.setattr(http, "SEND_TIMEOUT_S", 0.05)
    blocked = 0

    async def never_read(message: dict[str, Any]) -> None:
        nonlocal blocked
        if message["type"] == "http.response.body":
            blocked += 1
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await served(endless(), Client(), never_read)
    assert blocked == 1


async def test_a_stream_that_is_stopped_is_done_with_too() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def take(_: dict[str, Any]) -> None:
        pass

    serving = asyncio.create_task(served(silent(), Client(), take))
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


def test_small_things() -> None:
    refused = error_response("/v1/completions", Overloaded("no"))
    assert (refused.status_code, json.loads(bytes(refused.body))["error"]["message"]) == (429, "no")
    assert "retry-after" in refused.headers
    refused = error_response("/v1/messages", Overloaded("no"), {"x-a": "b"})
    assert json.loads(bytes(refused.body)) == {"type": "error", "error": {"type": "rate_limit_error", "message": "no"}}
    assert (refused.headers.get("retry-after"), refused.headers["x-a"]) == (None, "b")
    response = json_response({"a": "ö"}, 418, {"x-a": "b"})
    assert (response.status_code, response.body, response.headers["x-a"]) == (418, '{"a":"ö"}'.encode(), "b")
