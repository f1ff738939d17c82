"""What a peer may make a server hold, and for how long: real sockets before a small app."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from pipesd_core.service import http, limits
from pipesd_core.service.http import EventStream, read_body
from pipesd_core.service.program import listen
from pipesd_core.service.server import Server
from pipesd_core.service.settings import KEEP_ALIVE_S

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
MESSAGES: list[Any] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/health: ok. /large: 32 MiB. /body: its length. /stream: events for ever. WebSocket: collects what it is told."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            MESSAGES.append(message)
        MESSAGES.append(message)
    elif scope["path"] == "/stream":
        await EventStream(endless(), lambda: MESSAGES.append("done"), {})(scope, receive, send)
    else:
        body = {"/health": b"ok", "/large": bytes(32 * 2**20)}.get(scope["path"], b"")
        if scope["path"] == "/body":
            body = str(len(await read_body(Request(scope, receive)))).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"data: " + bytes(100_000) + b"\n\n"
        await asyncio.sleep(0)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    MESSAGES.clear()
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]

    async def on_stop() -> None:
        pass

    server = Server(app, on_stop, log_level="warning")
    server.port = port  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve([listener]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await asyncio.wait_for(serving, 10)


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def peer(server: Server) -> AsyncIterator[Pair]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)  # type: ignore[attr-defined]
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def received(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b"reset"


def error_of(answer: bytes, status: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def until(condition: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)


# Heads.


async def test_a_head_that_does_not_come(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", 0.2)
    async with peer(server) as (reader, writer):
        for _ in range(3):
            writer.write(b"GET /health HTTP/1.1\r\n" if not _ else b"x: y\r\n")
            await asyncio.sleep(0.05)
        error = error_of(await received(reader), 408)
        assert "did not arrive within 0.2 s" in error["message"]
    async with peer(server) as (reader, _):
        assert await received(reader) == b""  # who says nothing is told nothing


async def test_the_next_head_on_a_connection_has_its_own_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", 1.5)
    async with peer(server) as (reader, writer):
        for _ in range(3):
            writer.write(GET[:20])
            await asyncio.sleep(0.6)
            writer.write(GET[20:])
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        writer.write(GET[:20])
        assert "did not arrive" in error_of(await received(reader), 408)["message"]


async def test_an_idle_connection_is_closed(server: Server) -> None:
    assert server.config.timeout_keep_alive == KEEP_ALIVE_S == 75
    server.config.timeout_keep_alive = 0
    async with peer(server) as (reader, writer):
        writer.write(GET)
        assert (await received(reader)).endswith(b"ok")


CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: TE, Close\r\n\r\n")
UNREAD = b"POST /health HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("asked", "stays"), [(GET, True), (CLOSING, False), (GET.replace(b"/1.1", b"/1.0"), False), (UNREAD, False)]
)
async def test_a_client_is_told_how_long_its_connection_stays_open(server: Server, asked: bytes, stays: bool) -> None:
    server.config.timeout_keep_alive = 7
    async with peer(server) as (reader, writer):
        for _ in range(3 if stays else 1):
            writer.write(asked)
            head = (await reader.readuntil(b"ok")).lower()
            assert (b"\r\nkeep-alive: timeout=7\r\n" in head) is stays, head
        if not stays:
            assert await received(reader) == b""


async def test_a_stream_says_how_long_its_connection_stays_open(server: Server) -> None:
    async with peer(server) as (reader, writer):
        writer.write(GET.replace(b"/health", b"/stream"))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.count(b"keep-alive: timeout=75\r\n") == head.count(b"connection: keep-alive\r\n") == 1


async def test_too_large_a_head(server: Server) -> None:
    async with peer(server) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nx: " + b"y" * (limits.MAX_HEAD_BYTES + 100_000))
        assert "65536 bytes" in error_of(await received(reader), 431)["message"]
    async with peer(server) as (reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 60_000 + b"\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("what", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_request(server: Server, what: bytes) -> None:
    async with peer(server) as (reader, writer):
        writer.write(what)
        assert error_of(await received(reader), 400)["type"] == "invalid_request_error"


async def test_what_is_no_request_after_the_answer(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with peer(server) as (reader, writer):
        writer.write(b"POST /health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.write(b"nonsense\r\n")
        assert await received(reader) == b""
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Bodies.


async def test_a_body_that_nobody_reads_has_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "BODY_SLACK_S", 0.2)
    async with peer(server) as (reader, writer):
        writer.write(b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        await reader.readuntil(b"ok")
        began = asyncio.get_running_loop().time()
        for _ in range(100):
            writer.write(b"x")
            if reader.at_eof():
                break
            await asyncio.sleep(0.05)
        assert await received(reader) in (b"", b"reset")
        assert asyncio.get_running_loop().time() - began < 3


# Connections.


async def test_too_many_connections_are_told_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(limits, "MAX_REFUSED", 1)
    async with peer(server) as one, peer(server), peer(server) as (reader, writer):
        await until(lambda: len(server.server_state.connections) == 3)
        async with peer(server) as (beyond, _):
            assert await received(beyond) in (b"", b"reset")
        writer.write(GET)
        answer = await received(reader)
        assert "2 connections are open" in error_of(answer, 503)["message"]
        assert b"retry-after: 1" in answer
        await until(lambda: len(server.server_state.connections) == 2)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/")  # type: ignore[attr-defined]
        assert refused.value.response.status_code == 503
        one[1].write(GET)  # those that were there first are served
        assert (await one[0].readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")


async def test_idle_connections_make_room_for_new_ones(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there may be, idle for 75 s, lock nobody out; those that have something under way stay."""
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(limits, "MAX_REFUSED", 1)
    async with contextlib.AsyncExitStack() as stack:
        streaming = await stack.enter_async_context(peer(server))
        streaming[1].write(GET.replace(b"/health", b"/stream"))
        await streaming[0].readuntil(b"data: ")
        reading = await stack.enter_async_context(peer(server))
        reading[1].write(GET.replace(b"/health", b"/large"))
        await reading[0].readuntil(b"\r\n\r\n")
        beginning = await stack.enter_async_context(peer(server))
        beginning[1].write(GET + GET[:9])
        await beginning[0].readuntil(b"ok")
        idle = []
        for _ in range(6):
            idle.append(await stack.enter_async_context(peer(server)))
            idle[-1][1].write(GET)
            assert (await idle[-1][0].readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
        for reader, _ in idle[:-1]:
            assert await received(reader) in (b"", b"reset")
        beginning[1].write(GET[9:])
        await beginning[0].readuntil(b"ok")
        assert not any(reader.at_eof() for reader, _ in (streaming, reading))
        # A burst of them, more than there may be: each has its turn, or is told.
        for _ in range(3):
            async with contextlib.AsyncExitStack() as burst:
                pairs = [await burst.enter_async_context(peer(server)) for _ in range(2)]
                for _, writer in pairs:
                    writer.write(GET)
                assert (await pairs[0][0].readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")


async def test_the_longest_idle_connection_goes_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 2)
    async with peer(server) as one, peer(server) as other, contextlib.AsyncExitStack() as stack:
        for reader, writer in (one, other, one):  # the first is the one that was used last
            writer.write(GET)
            await reader.readuntil(b"ok")
        _, writer = newcomer = await stack.enter_async_context(peer(server))
        assert await received(other[0]) in (b"", b"reset")
        writer.write(GET)
        one[1].write(GET)
        for reader, _ in (newcomer, one):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")


async def test_connections_come_and_go(server: Server) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(50):
        async with peer(server) as (_, writer):
            writer.write(GET[:10])
    await until(lambda: not server.server_state.connections)
    await until(lambda: descriptors() <= before)


# Clients that do not read.


async def test_a_client_that_does_not_take_a_whole_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 1.0)
    async with peer(server) as (_, writer):
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await until(lambda: any(c.transport.is_closing() for c in server.server_state.connections))
        await until(lambda: not server.server_state.connections)


async def test_one_that_takes_its_time_gets_it_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_TIMEOUT_S", 2.5)
    async with peer(server) as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        size = 0
        async with asyncio.timeout(30):
            while part := await reader.read(8 * 2**20):
                size += len(part)
                await asyncio.sleep(0.05)
        assert size > 32 * 2**20


async def test_a_client_that_does_not_take_its_stream(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT_S", 0.3)
    caplog.set_level(logging.INFO)
    async with peer(server) as (_, writer):
        writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: MESSAGES == ["done"])
        await until(lambda: not server.server_state.connections)
    assert "stream aborted: the client read nothing for 0.3 s" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# WebSockets.


async def test_a_websocket_outlives_the_time_of_a_body(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(limits, "BODY_SLACK_S", 0.0)
    monkeypatch.setattr(limits, "HEAD_TIMEOUT_S", 0.1)
    async with connect(f"ws://127.0.0.1:{server.port}/") as socket:  # type: ignore[attr-defined]
        await asyncio.sleep(0.4)
        await socket.send(b"still here")
        await until(lambda: bool(MESSAGES))
    assert MESSAGES[0]["bytes"] == b"still here"


async def test_a_message_in_too_many_fragments(server: Server) -> None:
    async with connect(f"ws://127.0.0.1:{server.port}/", compression=None) as socket:  # type: ignore[attr-defined]
        await socket.send(b"x" for _ in range(limits.MAX_FRAGMENTS - 1))  # and an empty one that ends it
        await until(lambda: bool(MESSAGES))
        assert len(MESSAGES[0]["bytes"]) == limits.MAX_FRAGMENTS - 1
        raw = Frame(Opcode.BINARY, b"", fin=False).serialize(mask=True)
        raw += Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * (limits.MAX_FRAGMENTS + 10)
        socket.transport.write(raw)
        await asyncio.wait_for(socket.wait_closed(), 10)
        assert socket.close_code == 1009
    await until(lambda: len(MESSAGES) == 2)
    assert MESSAGES[1]["type"] == "websocket.disconnect"
    await until(lambda: not server.server_state.connections)


async def test_an_agent_that_pings_and_never_reads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNREAD_BYTES", 10_000)
    async with connect(f"ws://127.0.0.1:{server.port}/", compression=None) as socket:  # type: ignore[attr-defined]
        socket.transport.pause_reading()
        pings = Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 5000
        async with asyncio.timeout(20):
            while server.server_state.connections:
                if socket.transport.get_write_buffer_size() < 2**20:
                    socket.transport.write(pings)
                await asyncio.sleep(0.005)
        socket.transport.abort()
