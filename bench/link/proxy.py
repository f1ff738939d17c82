"""The TCP proxy: its connections, and how they end. Everything here runs on the loop's thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

from bench.link.flow import Flow, Reset, Shared
from bench.link.lane import PACKET, Step, Way

log = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
FIN_S: Final = 2.0
"""How long a closed connection waits for the other end's FIN, so that ours does not become a RST."""
READ: Final = 65536
SETTLE_S: Final = 0.005
"""Between two looks at whether everything is carried."""
Tap = Callable[[int, bytes], None]


class _Connection:
    """One connection through the proxy. `task` owns its two sockets, and is through when both are closed."""

    def __init__(
        self, client: socket.socket, connect: Coroutine[Any, Any, socket.socket], flows: _MakeFlows, number: int
    ) -> None:
        self.number = number
        self.dealt_with = asyncio.Event()
        """Set when an order has done what others can see."""
        self._client = client
        self._server: socket.socket | None = None
        self._flows = flows
        self._order: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run(connect))

    @property
    def up(self) -> bool:
        """Not told to end, and not over."""
        return not self._order.done() and not self.task.done()

    def order(self, how: Order) -> None:
        """End the connection in this way."""
        self._order.set_result(how)

    async def _run(self, connect: Coroutine[Any, Any, socket.socket]) -> None:
        work = asyncio.create_task(self._carry(connect))
        try:
            await asyncio.wait((work, self._order), return_when=asyncio.FIRST_COMPLETED)
            failure = await _cancelled(work)
            if self._order.done() and self._server is not None:
                await self._order.result()(self, self._client, self._server)
            elif self._order.done() or failure is not None:
                _close(self._client, reset=True)
                _close(self._server, reset=True)
                _check(failure)
        finally:
            await _cancelled(work)
            _close(self._client)
            _close(self._server)
            self.dealt_with.set()

    async def _carry(self, connect: Coroutine[Any, Any, socket.socket]) -> None:
        self._server = await connect
        async with asyncio.TaskGroup() as group:
            for flow in self._flows(self._client, self._server, self.number):
                group.create_task(flow.pump())
                group.create_task(flow.deliver())


_MakeFlows = Callable[[socket.socket, socket.socket, int], Iterator[Flow]]
Order = Callable[[_Connection, socket.socket, socket.socket], Awaitable[None]]


async def reset(_: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(client, reset=True)
    _close(server, reset=True)


async def cut(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    for end in (client, server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_WR)
    connection.dealt_with.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIN_S):
            await asyncio.gather(_swallow(client), _swallow(server))


async def drop_server(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(server, reset=True)
    connection.dealt_with.set()
    await _swallow(client)


async def drop_client(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(client, reset=True)
    connection.dealt_with.set()
    await _swallow(server)


async def _swallow(end: socket.socket) -> None:
    """What it sends goes nowhere, until it gives up itself."""
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(end, READ):
            pass


class Proxy:
    """Everything on the loop's thread."""

    def __init__(self, to: tuple[str, int], up: Way, down: Way, seed: int, tap: Tap | None) -> None:
        self._to = to
        self._normal = (up, down)
        self.up, self.down = Shared(up, 2 * seed), Shared(down, 2 * seed + 1)
        self._tap = tap
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[_Connection] = set()
        self._trace: asyncio.Task[None] | None = None
        self.accepted = 0
        self._listener = self._bound("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())

    async def normal(self) -> None:
        self._set(*self._normal)
        self._flowing.set()
        if self._accepting.done():
            self._accepting = asyncio.create_task(self._accept())

    async def settle(self) -> None:
        """Wait until all that was sent is carried."""
        while not self.up.reading == self.down.reading == len(self._connections):  # noqa: ASYNC110  a test's, and rare
            await asyncio.sleep(SETTLE_S)

    async def change(self, change: Callable[[Way], Way]) -> None:
        self._set(change(self.up.lane.way), change(self.down.lane.way))

    async def stall(self, seconds: float) -> None:
        self.up.stall(seconds)
        self.down.stall(seconds)

    async def hang(self) -> None:
        self._flowing.clear()

    async def refuse(self) -> None:
        await _cancelled(self._accepting)
        self._listener.close()
        # Bound, so that the port stays ours; not listening, so that it refuses.
        self._listener = self._bound("127.0.0.1", self.port)

    async def end(self, how: Order) -> int:
        """End all connections there are; returns how many."""
        connections = [connection for connection in self._connections if connection.up]
        for connection in connections:
            connection.order(how)
        for connection in connections:
            await connection.dealt_with.wait()
        return len(connections)

    async def play(self, steps: Iterable[Step]) -> None:
        if self._trace is not None:
            await _cancelled(self._trace)
        self._trace = asyncio.create_task(self._play(steps))

    async def aclose(self) -> None:
        for task in (self._trace, self._accepting, *(connection.task for connection in self._connections)):
            if task is not None:
                await _cancelled(task)
        self._listener.close()

    async def _play(self, steps: Iterable[Step]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for step in steps:
            up, down = self._normal
            self._normal = (replace(up, rate=step.up), replace(down, rate=step.down))
            self._set(replace(self.up.lane.way, rate=step.up), replace(self.down.lane.way, rate=step.down))
            due += step.seconds
            await asyncio.sleep(due - loop.time())

    def _set(self, up: Way, down: Way) -> None:
        self.up.change(up)
        self.down.change(down)

    async def _accept(self) -> None:
        self._listener.listen(128)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, self._connect(), self._flows, self.accepted)
            self.accepted += 1
            self._connections.add(connection)
            connection.task.add_done_callback(partial(self._gone, connection))

    def _gone(self, connection: _Connection, task: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection failed", exc_info=error)

    async def _connect(self) -> socket.socket:
        await self._flowing.wait()
        server = _socket(self._normal[1])
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(server, self._to)
        except BaseException:
            server.close()
            raise
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def _flows(self, client: socket.socket, server: socket.socket, number: int) -> Iterator[Flow]:
        yield Flow(client, server, self.up, self._flowing, self._tap and partial(self._tap, number))
        yield Flow(server, client, self.down, self._flowing)

    def _bound(self, host: str, port: int) -> socket.socket:
        listener = _socket(self._normal[0])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return listener


def _socket(way: Way) -> socket.socket:
    """One that takes bytes of this way."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, way.kernel_bytes())
    # Else loopback's packets of 64 KiB do not fit into a small buffer, and TCP waits for its timers.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PACKET)
    return made


def _close(end: socket.socket | None, *, reset: bool = False) -> None:
    if end is not None and end.fileno() >= 0:
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


async def _cancelled(task: asyncio.Task[None]) -> BaseException | None:
    """Cancel a task and wait for its end; returns what it failed of, if it did."""
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    return None if isinstance(result, asyncio.CancelledError) else result


def _check(failure: BaseException | None) -> None:
    """Raises it unless it is what happens on links."""
    rest: BaseException | None = failure
    if isinstance(failure, BaseExceptionGroup):
        rest = failure.split((OSError, Reset))[1]
    if rest is not None and not isinstance(rest, OSError):
        raise rest
