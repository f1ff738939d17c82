"""WebSockets whose other end is gone: found within twice the ping interval, and let go of at once."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect

from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S
from pipesd_core.service import limits
from pipesd_core.service import server as serving
from pipesd_core.service.server import Server


def test_both_ends_find_a_dead_link_within_twice_the_interval() -> None:
    assert 4 <= PING_TIMEOUT_S <= PING_INTERVAL_S, "a busy machine needs so long"


@pytest.fixture
def ended() -> list[float]:
    """When the application was told, seconds after it had begun to write."""
    return []


@asynccontextmanager
async def server(ended: list[float], *, writes: bool) -> AsyncIterator[tuple[Server, str]]:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        began = time.monotonic()
        try:
            while writes:
                await websocket.send_bytes(bytes(100_000))
            await websocket.receive()
        except WebSocketDisconnect:
            pass
        finally:
            ended.append(time.monotonic() - began)

    app = Starlette(routes=[WebSocketRoute("/", talk)])

    async def on_stop() -> None:
        pass

    listener = socket.create_server(("127.0.0.1", 0))
    running = Server(app, on_stop, log_level="warning")
    task = asyncio.create_task(running._serve([listener]))
    try:
        while not running.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield running, f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        running.should_exit = True
        await asyncio.wait_for(task, 60)


@pytest.mark.parametrize("writes", [False, True], ids=["idle", "with a full buffer"])
async def test_a_peer_that_is_silent_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, ended: list[float], writes: bool
) -> None:
    monkeypatch.setattr(serving, "PING_INTERVAL_S", 0.3)
    monkeypatch.setattr(serving, "PING_TIMEOUT_S", 0.3)
    async with server(ended, writes=writes) as (running, url), connect(url, ping_interval=None) as peer:
        peer.transport.pause_reading()
        async with asyncio.timeout(60):
            while running.server_state.connections or not ended:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert 0.25 < ended[0] < 8, "9 s with the intervals as they are"
        peer.transport.abort()


async def test_a_peer_that_does_not_take_the_end_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, ended: list[float]
) -> None:
    monkeypatch.setattr(limits, "CLOSE_S", 0.3)
    async with server(ended, writes=False) as (running, url), connect(url, ping_interval=None) as peer:
        await peer.send(b"end")
        peer.transport.pause_reading()
        async with asyncio.timeout(60):
            while running.server_state.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        peer.transport.abort()
