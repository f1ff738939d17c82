"""Whoever asks while the model loads is told so, and the listener is whole afterwards."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pipesd_core.service import startup
from pipesd_core.service.hosts import names_of
from pipesd_core.service.program import listen
from pipesd_core.service.startup import answering_while_starting


async def test_alive_and_not_ready() -> None:
    with listen("127.0.0.1", 0) as listener:
        root = f"127.0.0.1:{listener.getsockname()[1]}"
        async with answering_while_starting(listener), httpx.AsyncClient(base_url=f"http://{root}") as client:
            assert (await client.get("/health")).json() == {"status": "starting"}
            for response in (
                await client.get("/ready"),
                await client.get("/v1/models"),
                await client.post("/v1/completions", content=b"x" * 500_000),
            ):
                assert response.status_code == 503
                assert "the model is loading" in response.json()["error"]["message"]
                assert 5 <= int(response.headers["retry-after"]) <= 8
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{root}/v1/pipesd/ws")
            assert refused.value.response.status_code == 503
        listener.setblocking(False)
        with contextlib.closing(await asyncio.start_server(lambda _, writer: writer.close(), sock=listener)):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b""
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"\x00" * 100, b"GET", b"GET\r\n\r\n", b"x" * 200_000, b"\r\n\r\n"])
async def test_what_is_no_request(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "PATIENCE_S", 0.3)
    with listen("127.0.0.1", 0) as listener:
        async with answering_while_starting(listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(60):
                    await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET http://localhost/health?x HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 503),
        (b"HEAD /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", 503),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    ],
)
async def test_the_rules_of_http_hold_from_the_start(sent: bytes, status: int) -> None:
    with listen("127.0.0.1", 0) as listener:
        async with answering_while_starting(listener, hosts=names_of((), loopback=True)), asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(sent)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\ndate: " in head.lower()
            assert bool(body) == (not sent.startswith(b"HEAD"))
            assert (b"retry-after: " in head) == (status == 503)
            writer.close()
            await writer.wait_closed()


async def test_more_clients_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "MAX_CLIENTS", 1)
    with listen("127.0.0.1", 0) as listener:
        async with answering_while_starting(listener), asyncio.timeout(60):
            _, first = await asyncio.open_connection(*listener.getsockname())
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b""
            for held in (first, writer):
                held.close()
                await held.wait_closed()


async def test_a_client_that_does_nothing_is_let_go_at_the_end() -> None:
    with listen("127.0.0.1", 0) as listener:
        async with answering_while_starting(listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await asyncio.sleep(0.05)
        async with asyncio.timeout(1):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
