"""HTTP answers while a model loads, which may take minutes: alive, not ready, and 503 to everything else.

A server of its own, since uvicorn begins with the application, and that with the model.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from socket import socket
from typing import Final

import msgspec

from pipesd_core.errors import Unavailable

PATIENCE_S: Final = 5.0
"""Longest time for a client to send its request, and to take the answer."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_CLIENTS: Final = 64
"""Most clients at a time; more are hung up on."""


class Loading(Unavailable):
    retry_after_s: float = 5


@asynccontextmanager
async def answering_while_starting(listener: socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Answer on `listener` as long as the context lasts; the listener stays open, for the next server."""
    clients: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            if len(clients) <= MAX_CLIENTS:
                async with asyncio.timeout(PATIENCE_S):
                    await _answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # not logged: the client would only have got a 503
        except asyncio.CancelledError:
            pass  # at the end, below; asyncio's streams of Python 3.11 log a handler that ends so as a fault
        finally:
            clients.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    # A descriptor of its own, so that its end is not the listener's.
    server = await asyncio.start_server(client, sock=listener.dup(), ssl=tls, limit=MAX_HEAD_BYTES)
    try:
        yield
    finally:
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1:2]
    loading = Loading("the model is loading; try again later")
    status, body = HTTPStatus.OK, b'{"status":"starting"}'
    if path != [b"/health"]:
        status, body = HTTPStatus.SERVICE_UNAVAILABLE, msgspec.json.encode(loading.body())
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in loading.headers().items()),
        "connection: close",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()
    writer.write_eof() if writer.can_write_eof() else None
    # A body that is still on its way must not turn the answer into a reset connection.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while await reader.read(MAX_HEAD_BYTES):
                pass
