"""One direction of one connection through the proxy, and what it shares with the others on the same link."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from bench.link.lane import PACKET, Lane, Way

SLACK_S: Final = 0.0002
"""A wait shorter than this is not worth a timer: the departure counts, not the moment of waking up."""
EARLY_S: Final = 0.0005
"""Before the arrival of a message the timer ends and a busy wait begins: timers fire late. (Not for whole packets.)"""


class Reset(Exception):
    """One end was reset: so is the other."""


class Shared:
    """A lane, whose turn it is on it, and how to wake whoever waits for a departure that is moved."""

    def __init__(self, way: Way, seed: int) -> None:
        self.lane = Lane(way, seed)
        self.bytes = 0
        self.reading = 0
        """Flows that have carried all there was, and wait for more."""
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def change(self, way: Way) -> None:
        self.lane.change(way, asyncio.get_running_loop().time())
        self._wake()

    def stall(self, seconds: float) -> None:
        self.lane.stall(seconds, asyncio.get_running_loop().time())
        self._wake()

    async def leave(self, size: int, ready: float) -> tuple[float, float]:
        """A chunk travels, alone on the lane: (when it has left, when it arrives)."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            self.lane.begin(size, ready)
            while (left := self.lane.free_at - loop.time()) > SLACK_S:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._changed.wait()
            self.bytes += size
            return self.lane.free_at, self.lane.arrival()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Flow:
    """One direction of one connection. tap: gets what is delivered."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        shared: Shared,
        flowing: asyncio.Event,
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        self._source, self._sink, self._shared, self._flowing, self._tap = source, sink, shared, flowing, tap
        self._air: deque[tuple[float, bytes | None]] = deque()
        """Chunks by time of arrival. Empty: FIN; None: RST."""
        self._size = 0
        self._moved = asyncio.Event()
        """Set whenever chunks come or go."""

    async def pump(self) -> None:
        """From the source into the air."""
        loop = asyncio.get_running_loop()
        ready = loop.time()
        while True:
            while self._size > self._shared.lane.way.room():  # the sink does not take it
                await self._move()
                ready = loop.time()
            if not self._flowing.is_set():
                await self._flowing.wait()
                ready = loop.time()
            data: bytes | None
            try:
                try:
                    data = self._source.recv(self._chunk)  # there already: it may leave right behind the one before
                except BlockingIOError:
                    data = await self._read()
                    ready = loop.time()
            except ConnectionError:
                data = None
            if not data:
                self._rise((await self._shared.leave(0, ready))[1], data)
                return
            while data:  # more than once where the link has become another one since
                part, data = data[: self._chunk], data[self._chunk :]
                ready, arrives = await self._shared.leave(len(part), ready)
                self._rise(arrives, part)
            await asyncio.sleep(0)

    async def deliver(self) -> None:
        """From the air to the sink. Raises OSError when that does not take it, and Reset."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._air:
                await self._move()
            arrives, data = self._air.popleft()
            early = EARLY_S if len(data or b"") < PACKET else 0.0
            if (left := arrives - loop.time()) > early:
                await asyncio.sleep(left - early)
            while loop.time() < arrives:
                time.sleep(0)  # noqa: ASYNC251  lets other threads run
            await self._flowing.wait()
            if data is None:
                raise Reset
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._sink, data)
            if self._tap is not None:
                self._tap(data)
            self._size -= len(data)
            self._moved.set()

    async def _read(self) -> bytes:
        self._shared.reading += 1
        try:
            return await asyncio.get_running_loop().sock_recv(self._source, self._chunk)
        finally:
            self._shared.reading -= 1

    @property
    def _chunk(self) -> int:
        return self._shared.lane.way.chunk()

    def _rise(self, arrives: float, data: bytes | None) -> None:
        self._air.append((arrives, data))
        self._size += len(data or b"")
        self._moved.set()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()
