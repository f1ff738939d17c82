"""HTTP answers while a model loads, which may take minutes: alive, not ready, and 503 to everything else.

A server of its own, since uvicorn begins with the application, and that with the model.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from socket import socket
from typing import Final

import h11
import msgspec

from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.service.hosts import HostNames
from pipesd_core.service.request_head import RefusedHead, ServerConnection

PATIENCE_S: Final = 5.0
"""Longest time for a client to send its request, and to take the answer."""
MAX_HEAD_BYTES: Final = 64 * 1024
MAX_CLIENTS: Final = 64
"""Most clients at a time; more are hung up on."""


class Loading(Unavailable):
    retry_after_s: float = 5


@asynccontextmanager
async def answering_while_starting(
    listener: socket, tls: ssl.SSLContext | None = None, hosts: HostNames | None = None
) -> AsyncIterator[None]:
    """Answer on `listener` as long as the context lasts; the listener stays open, for the next server.

    hosts: the names that it answers to; None: any.
    """
    clients: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            if len(clients) <= MAX_CLIENTS:
                async with asyncio.timeout(PATIENCE_S):
                    await _answer(ServerConnection(MAX_HEAD_BYTES, secure=tls is not None), reader, writer, hosts)
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


async def _answer(
    connection: ServerConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hosts: HostNames | None
) -> None:
    method, status, body = b"", HTTPStatus.OK, b'{"status":"starting"}'
    headers: dict[str, str] = {}
    try:
        request = await _head(connection, reader)
        method = request.method
        _admit(request, hosts or HostNames())
    except (h11.RemoteProtocolError, ApiError) as error:
        if isinstance(error, RefusedHead):
            method = error.method
        refusal = _refusal(error)
        status, body, headers = HTTPStatus(refusal.status), msgspec.json.encode(refusal.body()), refusal.headers()
    lines = {
        "date": formatdate(usegmt=True),
        "content-type": "application/json",
        "content-length": str(len(body)),
        **headers,
        "connection": "close",
    }
    response = h11.Response(status_code=status, reason=status.phrase.encode(), headers=list(lines.items()))
    for event in (response, h11.Data(data=b"" if method == b"HEAD" else body), h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
    await writer.drain()
    writer.write_eof() if writer.can_write_eof() else None
    # A body that is still on its way must not turn the answer into a reset connection.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while await reader.read(MAX_HEAD_BYTES):
                pass


async def _head(connection: ServerConnection, reader: asyncio.StreamReader) -> h11.Request:
    """The head of the request. Raises RemoteProtocolError, of a client that leaves too."""
    while not isinstance(event := connection.next_event(), h11.Request):
        if event is not h11.NEED_DATA:
            raise h11.RemoteProtocolError("no request")
        connection.receive_data(await reader.read(MAX_HEAD_BYTES))
    return event


def _admit(request: h11.Request, hosts: HostNames) -> None:
    """Raise what a request is refused with: all but one for /health are."""
    host = next((value for name, value in request.headers if name == b"host"), b"")
    hosts.check(host.decode("latin-1"))
    if request.target.partition(b"?")[0] != b"/health" or request.method not in (b"GET", b"HEAD"):
        raise Loading("the model is loading; try again later")


def _refusal(error: h11.RemoteProtocolError | ApiError) -> ApiError:
    """What the client is told."""
    if isinstance(error, ApiError):
        return error
    return error.error if isinstance(error, RefusedHead) else InvalidRequest(f"this is no HTTP request: {error}")
