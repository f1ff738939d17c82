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

from pipesd_agent.link.requests import Streams
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

DRAINS_FOR_S: Final = 5.0
"""So long a gateway that was about to end is not gone back to: by then it refuses us, is gone, or is another one."""
SOCKET_BUFFER_BYTES: Final = 4096
"""Unsent bytes that may lie in the socket: more would be drafts that go stale there on a slow link."""
FRAGMENT_BYTES: Final = 4096
"""A larger message (an `open` with a long chat) goes in pieces of this size, so that pings pass between them."""
SEND_TIMEOUT_S: Final = 7.0
"""Longest wait for the socket to take a message or fragment. A full buffer stops the pings too: they cannot tell."""
CLOSE_TIMEOUT_S: Final = 1.0


class NotUnderstood(Unavailable):
    """The two ends do not speak the same language: what they were about cannot be resumed."""


class Connection:
    """One WebSocket: pulls messages out of the sessions as fast as socket and link take them, and no faster.

    Args:
        room_at: of `LinkSettings`.
        others: there are other gateways: what this one does not begin, or does not go on with, waits for them.

    Attributes:
        draining: the gateway is about to end; its result: in how many seconds.
        over: the connection has ended; its result: why.
    """

    def __init__(
        self, websocket: ClientConnection, streams: Streams, room_at: Callable[[], float], *, others: bool
    ) -> None:
        self._websocket = websocket
        self._streams = streams
        self._room_at = room_at
        loop = asyncio.get_running_loop()
        self.draining: asyncio.Future[float] = loop.create_future()
        self.over: asyncio.Future[ApiError] = loop.create_future()
        self.others = others
        self._left = False
        self._told: set[int] = set()
        self._farewells: deque[Close] = deque()

    async def run(self) -> None:
        """Carry the sessions until the connection ends, or has been left and what it kept is done; then hang up."""
        reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        self._streams.back()
        code = CLOSE_LEAVING
        why: ApiError = Unavailable("the link was closed; try again")
        try:
            try:
                await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                reader.cancel()
                writer.cancel()
                results = await asyncio.gather(reader, writer, return_exceptions=True)
            why = _why_lost(results)
            if self._left:
                self._streams.join(self, why)
            elif isinstance(why, NotUnderstood):
                self._streams.lost(why, for_good=True)
            else:
                self._streams.lost(why)
                code = CLOSE_RESUMING
        finally:
            self.over.set_result(why)
            await hang_up(self._websocket, code)

    @property
    def _keeper(self) -> Connection | None:
        """`RequestStream.kept_by` of those that it carries."""
        return self if self._left else None

    def leave(self) -> None:
        """Another connection takes over: keep the sessions that only this gateway can finish, close the others."""
        moved = self._streams.move(self)
        self._left = True
        self._farewells.extend(Close(channel) for channel in moved & self._told)

    async def _read(self) -> None:
        async for frame in self._websocket:
            message = decode_gateway(frame if isinstance(frame, bytes) else frame.encode())
            if isinstance(message, Rejected):
                raise ProtocolError(message.message)
            if isinstance(message, Draining):
                self._drains(message.deadline_s)
                continue
            stream = self._streams.get(message.channel)
            if stream is None or stream.kept_by is not self._keeper:
                if self._left:
                    continue
                raise ProtocolError(f"{type(message).__name__} for channel {message.channel}, which is not open")
            if isinstance(message, Failed) and message.code == Unavailable.code and self.others:
                self._drains(DRAINS_FOR_S)
                if stream.session.can_hand_off:
                    stream.postponed(message)
                    self._streams.sweep()
                    continue
            stream.receive(message)
            if stream.session.ended:
                self._streams.sweep()

    def _drains(self, seconds: float) -> None:
        if not self.draining.done():
            self.draining.set_result(seconds)

    async def _write(self) -> None:
        while self._needed:
            if not await self._write_round():
                await self._streams.sendable.wait()
                self._streams.sendable.clear()

    @property
    def _needed(self) -> bool:
        return not self._left or bool(self._streams.carried(self))

    async def _write_round(self) -> bool:
        """One message of each session that has one, in turn, so that none starves the others."""
        wrote = slept = False
        while self._farewells:
            await self._send(self._farewells.popleft())
        for stream in self._streams.carried(self._keeper):
            if (wait := self._room_at() - time.monotonic()) > 0.0:
                slept = True
                await asyncio.sleep(wait)
            if stream.kept_by is not self._keeper:
                continue  # this connection has been left meanwhile
            if (message := stream.session.next_message(time.monotonic())) is not None:
                if isinstance(message, Open | Resume):
                    self._told.add(message.channel)
                began = time.monotonic()
                stream.sent(message, await self._send(message), began)
                wrote = True
        if wrote:
            self._streams.rearm()
        return wrote or slept  # who had nothing to say before the pause may have now

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
            case ConnectionClosed(rcvd=rcvd) if rcvd is not None and rcvd.code == CLOSE_RESTARTING:
                why = Unavailable("the gateway is shutting down; try again")
            case ConnectionClosed() | TimeoutError():
                log.info("the link ended: %s", result)
            case Exception():
                log.error("the link failed", exc_info=result)
    return why


async def _fragments(frame: bytes, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
    for at in range(0, len(frame), FRAGMENT_BYTES):
        patience.reschedule(asyncio.get_running_loop().time() + SEND_TIMEOUT_S)
        yield frame[at : at + FRAGMENT_BYTES]


async def hang_up(websocket: ClientConnection, code: int) -> None:
    """Close, politely if the gateway takes part: with a full buffer on a dead link `close` alone would never end."""
    try:
        async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
            await websocket.close(code)
    except TimeoutError:
        pass
    finally:
        websocket.transport.abort()
