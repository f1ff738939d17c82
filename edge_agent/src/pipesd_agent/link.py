"""The link: one WebSocket to a gateway, kept up, carrying the sessions of all clients.

`Link` connects, reconnects with backoff and knows why there is no connection; `Connection` is one WebSocket's life. The
sessions (`streams`) outlive it: they are resumed on the next one, unless the two ends do not understand each other.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.stream import RequestStream
from pipesd_agent.streams import LinkSettings, Streams
from pipesd_gateway.exceptions import ApiError, ProtocolError, Unauthorized, Unavailable
from pipesd_gateway.protocol import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    EdgeMessage,
    Endpoint,
    Rejected,
    decode_gateway,
    encode,
)

log = logging.getLogger(__name__)

PING_INTERVAL_S: Final = 2.5
PING_TIMEOUT_S: Final = 6.0
"""Together the longest that a dead link goes unnoticed: 8.5 s, long enough for a busy machine to answer."""
CONNECT_TIMEOUT_S: Final = 5.0
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MOST_S: Final = 10.0
BACKOFF_WAITED_FOR_S: Final = 2.0
"""The most while clients wait for the link to come back."""
STABLE_S: Final = 5.0
"""A connection that lasted less does not make the next attempt come sooner."""
CLOSE_LEAVING: Final = 1001
"""Tells the gateway that nothing of this connection will be resumed."""
CLOSE_RESUMING: Final = 4000
"""Tells it that the sessions will be, on another connection."""
SOCKET_BUFFER_BYTES: Final = 4096
"""Unsent bytes that may lie in the socket: more would be drafts that go stale there on a slow link."""
FRAGMENT_BYTES: Final = 4096
"""A larger message (an `open` with a long chat) goes in pieces of this size, so that pings pass between them."""
SEND_TIMEOUT_S: Final = 7.0
"""Longest wait for the socket to take a message or fragment. A full buffer stops the pings too: they cannot tell."""
CLOSE_TIMEOUT_S: Final = 1.0
TCP_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", 25)  # Linux's number; Python 3.11 does not name it


class NotUnderstood(Unavailable):
    """The two ends do not speak the same language: what they were about cannot be resumed."""


class Connection:
    """One WebSocket: pulls messages out of the sessions as fast as the socket takes them, and no faster."""

    def __init__(self, websocket: ClientConnection, streams: Streams) -> None:
        self._websocket = websocket
        self._streams = streams

    async def run(self) -> ApiError:
        """Carry the sessions until the connection ends; returns why it did. Raises nothing but CancelledError."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        self._streams.back()
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            writer.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        why = _why_lost(results)
        if isinstance(why, NotUnderstood):
            self._streams.over(why)
        else:
            self._streams.lost(why)
        return why

    async def _read(self) -> None:
        async for frame in self._websocket:
            message = decode_gateway(frame if isinstance(frame, bytes) else frame.encode())
            if isinstance(message, Rejected):
                raise ProtocolError(message.message)
            stream = self._streams.get(message.channel)
            if stream is None:
                raise ProtocolError(f"{type(message).__name__} for channel {message.channel}, which is not open")
            stream.receive(message)
            if stream.session.ended:
                self._streams.sweep()

    async def _write(self) -> None:
        while True:
            await self._streams.sendable.wait()
            self._streams.sendable.clear()
            while await self._write_round():
                pass

    async def _write_round(self) -> bool:
        """One message of each session that has one, in turn, so that none starves the others."""
        wrote = False
        for stream in self._streams.all():
            if (message := stream.session.next_message(time.monotonic())) is not None:
                stream.sent(message, await self._send(message))
                wrote = True
        if wrote:
            self._streams.rearm()
        return wrote

    async def _send(self, message: EdgeMessage) -> int:
        """Returns bytes on the wire, below TLS. Waits while more than SOCKET_BUFFER_BYTES are unsent; TimeoutError."""
        frame = encode(message)
        sizes = [len(frame)]
        if len(frame) > FRAGMENT_BYTES:
            sizes = [len(frame[at : at + FRAGMENT_BYTES]) for at in range(0, len(frame), FRAGMENT_BYTES)]
            sizes.append(0)  # websockets ends fragmented messages so
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S) as patience:
                await self._websocket.send(frame if len(sizes) == 1 else _fragments(frame, patience))
        except TimeoutError:
            raise TimeoutError(f"nothing could be sent for {SEND_TIMEOUT_S:g} s") from None
        return sum((2 if size < 126 else 4) + 4 + size for size in sizes)


def _why_lost(results: Sequence[BaseException | None]) -> ApiError:
    """What ended the reader or the writer."""
    why: ApiError = Unavailable("the link to the gateway was lost; try again")
    for result in results:
        match result:
            case ProtocolError():
                why = NotUnderstood(f"the gateway and this agent do not understand each other: {result}")
            case ConnectionClosed() | TimeoutError():
                log.info("the link ended: %s", result)
            case Exception():
                log.error("the link failed", exc_info=result)
    return why


async def _fragments(frame: bytes, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
    for at in range(0, len(frame), FRAGMENT_BYTES):
        patience.reschedule(asyncio.get_running_loop().time() + SEND_TIMEOUT_S)
        yield frame[at : at + FRAGMENT_BYTES]


class Link:
    """Keeps a `Connection` up. `run` is its one task; whoever starts it cancels it."""

    def __init__(self, settings: LinkSettings, worker: DraftWorker | None, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._streams = Streams(settings, worker)
        self._tls = tls
        self._connection: Connection | None = None
        self._settled = asyncio.Event()
        """Set while it is known whether there is a connection: it is up, or the last attempt failed."""
        self._wanted = asyncio.Event()
        self._why: ApiError = Unavailable("not connected to the gateway yet; try again")

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def state(self) -> str:
        """For `/health`: "connected", or why not."""
        return "connected" if self.connected else str(self._why)

    @property
    def requests(self) -> int:
        """That have not ended, neither for their clients nor at the gateway."""
        return len(self._streams)

    async def request(
        self, endpoint: Endpoint, body: bytes, request_id: str, *, collaborative: bool = True
    ) -> RequestStream:
        """Open a session, connecting first where that is needed. Raises ApiError within `CONNECT_TIMEOUT_S`."""
        if self._connection is None:
            self._settled.clear()
            self._wanted.set()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S + 1):
                    await self._settled.wait()
            except TimeoutError:
                raise Unavailable(f"the gateway {self._settings.url} does not answer; try again") from None
        if self._connection is None:
            raise self._why
        return self._streams.request(endpoint, body, request_id, collaborative=collaborative)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        try:
            await self._keep_up()
        finally:
            self._streams.over(Unavailable("the agent is shutting down; try again later"))

    async def _keep_up(self) -> None:
        delay = BACKOFF_FIRST_S
        while True:
            self._wanted.clear()
            began = time.monotonic()
            try:
                connected = await self._connect_once()
            except Exception as error:
                # A bug, or a setting that nobody thought of. Requests are told; without this task they would only wait.
                log.exception("the attempt to connect failed")
                self._why = Unavailable(f"cannot connect to the gateway: {error!r}; see the agent's log")
                connected = False
            if connected and time.monotonic() - began > STABLE_S:
                delay = BACKOFF_FIRST_S
            self._settled.set()
            try:
                # Full jitter: the agents of a gateway that went down do not come back all at once.
                async with asyncio.timeout(random.uniform(0.0, delay)):
                    await self._wanted.wait()
            except TimeoutError:
                delay = min(BACKOFF_WAITED_FOR_S if len(self._streams) else BACKOFF_MOST_S, delay * 2)

    async def _connect_once(self) -> bool:
        """Connect and serve until the connection ends. False: there was none."""
        key = self._settings.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            websocket = await connect(
                self._settings.url,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
                additional_headers=headers,
                compression=None,
                open_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_FRAME_BYTES,
                write_limit=SOCKET_BUFFER_BYTES,
                ssl=self._tls,
            )
        except (OSError, InvalidHandshake, InvalidURI, ssl.SSLError) as error:
            self._note(_why_not(error, self._settings.url))
            return False
        leaving = True
        try:
            if websocket.subprotocol != SUBPROTOCOL:
                self._note(
                    Unavailable(f"{self._settings.url} does not speak {SUBPROTOCOL}: is it a PipeSD gateway's address?")
                )
                return False
            self._bound_kernel_buffer(websocket)
            self._connection = Connection(websocket, self._streams)
            self._settled.set()
            log.info("connected to %s", self._settings.url)
            self._why = await self._connection.run()
            leaving = isinstance(self._why, NotUnderstood)
            log.warning("%s", self._why)
        finally:
            self._connection = None
            await _hang_up(websocket, CLOSE_LEAVING if leaving else CLOSE_RESUMING)
        return True

    def _bound_kernel_buffer(self, websocket: ClientConnection) -> None:
        raw = websocket.transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            try:
                raw.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, SOCKET_BUFFER_BYTES)
            except OSError as error:  # not on this system: the buffer is the kernel's then
                log.debug("TCP_NOTSENT_LOWAT: %s", error)

    def _note(self, why: ApiError) -> None:
        if str(why) != str(self._why):
            log.warning("%s", why)
        self._why = why


async def _hang_up(websocket: ClientConnection, code: int) -> None:
    """Close, politely if the gateway takes part: with a full buffer on a dead link `close` alone would never end."""
    try:
        async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
            await websocket.close(code)
    except TimeoutError:
        pass
    finally:
        websocket.transport.abort()


def _why_not(error: Exception, url: str) -> ApiError:
    if isinstance(error, InvalidStatus):
        status, said = error.response.status_code, _message_of(error.response.body)
        if status == 401:  # whatever the body says: vLLM's own is not OpenAI-shaped
            reason = said or "no reason given"
            return Unauthorized(f"the gateway {url} refuses this agent's key ({reason}): set gateway_api_key_file")
        if not said:
            return Unavailable(
                f"there is no PipeSD gateway at {url} (it answered {status}): check the setting gateway, and any proxy "
                "in between"
            )
        return Unavailable(f"the gateway {url} answered {status}: {said}")
    if isinstance(error, TimeoutError):
        return Unavailable(f"the gateway {url} does not answer within {CONNECT_TIMEOUT_S:g} s; try again")
    if (distrust := untrusted(error, url)) is not None:
        return distrust
    return Unavailable(f"cannot reach the gateway {url}: {error}")


def untrusted(error: BaseException, url: str) -> Unavailable | None:
    """What a client is told if the gateway's certificate is what an attempt to connect failed of; else None."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return Unavailable(
        f"the certificate of the gateway {url} is not trusted ({cause.verify_message}): check the host's name, and "
        "set ca_file if its authority is not a public one"
    )


class _Said(Struct):
    message: str = ""


class _Refusal(Struct):
    error: _Said


def _message_of(body: bytes | bytearray | None) -> str:
    """Of an OpenAI-shaped error, as a gateway of ours sends it; else empty."""
    try:
        return msgspec.json.decode(body or b"", type=_Refusal).error.message
    except msgspec.DecodeError:
        return ""
