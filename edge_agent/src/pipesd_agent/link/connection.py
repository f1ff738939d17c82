"""One WebSocket to a gateway, and the sessions that it carries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from pipesd_agent.link.requests import RequestTable
from pipesd_core.errors import ApiError, ProtocolError, Unavailable
from pipesd_core.protocol.messages import (
    Close,
    Draining,
    EdgeMessage,
    Failed,
    Open,
    Rejected,
    Resume,
    decode_gateway,
    encode,
)
from pipesd_core.protocol.websocket import CLOSE_LEAVING, CLOSE_RESTARTING, CLOSE_RESUMING

log = logging.getLogger(__name__)

DRAINING_ASSUMED_S: Final = 5.0
"""For so long a gateway that was about to end is taken to be draining: by then it refuses us, is gone or is another."""
SOCKET_BUFFER_BYTES: Final = 4096
"""Unsent bytes that may lie in the socket: more would be drafts that go stale there on a slow link."""
FRAGMENT_BYTES: Final = 4096
"""A larger message (an `open` with a long chat) goes in pieces of this size, so that pings pass between them."""
SEND_TIMEOUT_S: Final = 7.0
"""Longest wait for the socket to take a message or fragment. A full buffer stops the pings too: they cannot tell."""
CLOSE_TIMEOUT_S: Final = 1.0


class ProtocolMismatch(Unavailable):
    """The two ends disagree about the protocol: their sessions cannot be resumed."""


class Connection:
    """One WebSocket: pulls messages out of the sessions as fast as socket and link take them, and no faster.

    Args:
        room_at: see `LinkSettings`.
        instance: the name of the server's process; None: it tells none.
        has_alternative: whether there may be another gateway, in the list or at the same address, for which what this
            one refuses to begin or to go on with waits.

    Attributes:
        draining: done when the gateway is about to end, or seems so; the result is in how many seconds.
        announced: whether it has said so itself.
        ended: done when the connection has ended; the result is why.
    """

    def __init__(
        self,
        websocket: ClientConnection,
        requests: RequestTable,
        room_at: Callable[[], float],
        *,
        instance: str | None,
        has_alternative: bool,
    ) -> None:
        self._websocket = websocket
        self._requests = requests
        self._room_at = room_at
        loop = asyncio.get_running_loop()
        self.draining: asyncio.Future[float] = loop.create_future()
        self.ended: asyncio.Future[ApiError] = loop.create_future()
        self.announced = False
        self.instance = instance
        self.has_alternative = has_alternative
        self._superseded = False
        self._opened_channels: set[int] = set()
        self._closes: deque[Close] = deque()

    async def run(self) -> None:
        """Carry the sessions until the connection ends, or is superseded and what it kept has ended; then close it."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        code = CLOSE_LEAVING
        why: ApiError = Unavailable("the link was closed; try again")
        try:
            try:
                await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                reader.cancel()
                writer.cancel()
                results = await asyncio.gather(reader, writer, return_exceptions=True)
            why = _error_of(results)
            if self._superseded:
                self._requests.rejoin(self, why)
            elif isinstance(why, ProtocolMismatch):
                self._requests.link_lost(why, permanently=True)
            else:
                self._requests.link_lost(why)
                code = CLOSE_RESUMING
        finally:
            self.ended.set_result(why)
            await close_websocket(self._websocket, code)

    @property
    def _keeper(self) -> Connection | None:
        """The value of `RequestStream.kept_by` for the requests that this connection carries."""
        return self if self._superseded else None

    def supersede(self) -> None:
        """Let another connection take over: keep the sessions that only this gateway can finish, close the others."""
        moved = self._requests.migrate(self)
        self._superseded = True
        self._closes.extend(Close(channel) for channel in moved & self._opened_channels)

    async def _read(self) -> None:
        async for frame in self._websocket:
            message = decode_gateway(frame if isinstance(frame, bytes) else frame.encode())
            if isinstance(message, Rejected):
                raise ProtocolError(message.message)
            if isinstance(message, Draining):
                self.announced = True
                self._set_draining(message.deadline_s)
                continue
            stream = self._requests.get(message.channel)
            if stream is None or stream.kept_by is not self._keeper:
                if self._superseded or (stream is None and self._requests.was_dropped(message.channel)):
                    continue
                raise ProtocolError(f"{type(message).__name__} for channel {message.channel}, which is not open")
            if isinstance(message, Failed) and message.code == Unavailable.code and self.has_alternative:
                self._set_draining(DRAINING_ASSUMED_S)
                if stream.session.can_hand_off:
                    stream.postponed(message)
                    self._requests.remove_ended()
                    continue
            stream.receive(message)
            if stream.session.ended:
                self._requests.remove_ended()

    def serves_on(self) -> None:
        """The gateway has refused something, but nothing else says that it ends: forget that it seemed so."""
        self.draining = asyncio.get_running_loop().create_future()
        self.has_alternative = True

    def _set_draining(self, seconds: float) -> None:
        if not self.draining.done():
            self.draining.set_result(seconds)

    async def _write(self) -> None:
        while self._has_work:
            if not await self._write_round():
                await self._requests.sendable.wait()
                self._requests.sendable.clear()

    @property
    def _has_work(self) -> bool:
        return not self._superseded or bool(self._requests.carried_by(self))

    async def _write_round(self) -> bool:
        """Send one message of each session that has one, in turn, so that none starves the others."""
        wrote = slept = False
        while self._closes:
            await self._send(self._closes.popleft())
        for stream in self._requests.carried_by(self._keeper):
            if (wait := self._room_at() - time.monotonic()) > 0.0:
                slept = True
                await asyncio.sleep(wait)
            if stream.kept_by is not self._keeper:
                continue  # this connection has been superseded meanwhile
            if (message := stream.session.next_message(time.monotonic())) is not None:
                if isinstance(message, Open | Resume):
                    self._opened_channels.add(message.channel)
                began = time.monotonic()
                stream.sent(message, await self._send(message), began)
                wrote = True
        if wrote:
            self._requests.arm_timer()
        return wrote or slept  # a session without a message before the pause may have one now

    async def _send(self, message: EdgeMessage) -> int:
        """Send a message, and return its bytes on the wire, below TLS.

        Waits while more than SOCKET_BUFFER_BYTES are unsent. Raises TimeoutError.
        """
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


def _error_of(results: Sequence[BaseException | None]) -> ApiError:
    """The error for what ended the reader or the writer."""
    why: ApiError = Unavailable("the link to the gateway was lost; try again")
    for result in results:
        match result:
            case ProtocolError():
                why = ProtocolMismatch(f"the gateway and this agent do not understand each other: {result}")
            case ConnectionClosed(rcvd=rcvd) if rcvd is not None and rcvd.code == CLOSE_RESTARTING:
                why = Unavailable("the gateway is shutting down; try again")
            case ConnectionClosed() | TimeoutError():
                log.info("link: ended: %s", result)
            case Exception():
                log.error("link: failed", exc_info=result)
    return why


async def _fragments(frame: bytes, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
    for at in range(0, len(frame), FRAGMENT_BYTES):
        patience.reschedule(asyncio.get_running_loop().time() + SEND_TIMEOUT_S)
        yield frame[at : at + FRAGMENT_BYTES]


async def close_websocket(websocket: ClientConnection, code: int) -> None:
    """Close a WebSocket, with a close frame where that is possible.

    With a full buffer on a dead link `close` alone would never end.
    """
    try:
        async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
            await websocket.close(code)
    except TimeoutError:
        pass
    finally:
        websocket.transport.abort()
