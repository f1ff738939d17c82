"""A link between two programs on one machine: a TCP proxy with rates, delays, jitter, rate traces, and faults.

    python -m bench.emulator --to 127.0.0.1:8100 --up 20M --down 200M --delay-ms 12.5

Bytes are delayed before they are delivered, never after, and stay in order. All connections share the link. A sender
feels it as it would a real one: what the link cannot take stays in the sender's socket (buffers here are bounded).
It is no network: TCP's own losses and slow start are not there, and a connection is made without delay.

`Emulator` runs the proxy on a thread of its own; its methods may be called from any thread, and what they do has
happened when they return. The loop waits by select(2): epoll's whole milliseconds would be an error of some per cent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

from bench.link_model import PACKET, Lane, Step, Way, redrawn

log = logging.getLogger(__name__)
T = TypeVar("T")

SLACK_S: Final = 0.0002
"""A wait shorter than this is not worth a timer: the departure counts, not the moment of waking up."""
EARLY_S: Final = 0.0005
"""Before the arrival of a message the timer ends and a busy wait begins: timers fire late. (Not for whole packets.)"""
CONNECT_S: Final = 5.0
COMMAND_S: Final = 10.0
FIN_S: Final = 2.0
"""How long a closed connection waits for the other end's FIN, so that ours does not become a RST."""
READ: Final = 65536
End = Literal["client", "server"]
Tap = Callable[[int, bytes], None]


class _Reset(Exception):
    """One end was reset: so is the other."""


class _Shared:
    """A lane, whose turn it is on it, and how to wake whoever waits for a departure that is moved."""

    def __init__(self, way: Way, seed: int) -> None:
        self.lane = Lane(way, seed)
        self.bytes = 0
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


class _Flow:
    """One direction of one connection. tap: gets what is delivered."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        shared: _Shared,
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
                    data = await loop.sock_recv(self._source, self._chunk)
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
        """From the air to the sink. Raises OSError when that does not take it, and _Reset."""
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
                raise _Reset
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._sink, data)
            if self._tap is not None:
                self._tap(data)
            self._size -= len(data)
            self._moved.set()

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
        self._order: asyncio.Future[_Order] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run(connect))

    @property
    def up(self) -> bool:
        """Not told to end, and not over."""
        return not self._order.done() and not self.task.done()

    def order(self, how: _Order) -> None:
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


_MakeFlows = Callable[[socket.socket, socket.socket, int], Iterator[_Flow]]
_Order = Callable[[_Connection, socket.socket, socket.socket], Awaitable[None]]


async def _reset(_: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(client, reset=True)
    _close(server, reset=True)


async def _cut(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    for end in (client, server):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_WR)
    connection.dealt_with.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIN_S):
            await asyncio.gather(_swallow(client), _swallow(server))


async def _drop_server(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(server, reset=True)
    connection.dealt_with.set()
    await _swallow(client)


async def _drop_client(connection: _Connection, client: socket.socket, server: socket.socket) -> None:
    _close(client, reset=True)
    connection.dealt_with.set()
    await _swallow(server)


async def _swallow(end: socket.socket) -> None:
    """What it sends goes nowhere, until it gives up itself."""
    with contextlib.suppress(OSError):
        while await asyncio.get_running_loop().sock_recv(end, READ):
            pass


class _Proxy:
    """Everything on the loop's thread."""

    def __init__(self, to: tuple[str, int], up: Way, down: Way, seed: int, tap: Tap | None) -> None:
        self._to = to
        self._normal = (up, down)
        self.up, self.down = _Shared(up, 2 * seed), _Shared(down, 2 * seed + 1)
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

    async def end(self, how: _Order) -> int:
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

    def _flows(self, client: socket.socket, server: socket.socket, number: int) -> Iterator[_Flow]:
        yield _Flow(client, server, self.up, self._flowing, self._tap and partial(self._tap, number))
        yield _Flow(server, client, self.down, self._flowing)

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
        rest = failure.split((OSError, _Reset))[1]
    if rest is not None and not isinstance(rest, OSError):
        raise rest


class Emulator:
    """The proxy on a thread of its own, from now until `close`. All methods return when they have taken effect.

    Args:
        to: host and port of the server.
        up, down: the normal link, towards the server and back.
        seed: of the jitter.
        tap: called on the emulator's thread with a connection's number and bytes that were delivered to the server.
    """

    def __init__(
        self,
        to: tuple[str, int],
        up: Way | None = None,
        down: Way | None = None,
        *,
        seed: int = 0,
        tap: Tap | None = None,
    ) -> None:
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulator", daemon=True)
        self._thread.start()
        self._proxy = self._do(_make(to, up or Way(), down or Way(), seed, tap))
        self.port = self._proxy.port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Accepted so far."""
        return self._proxy.accepted

    @property
    def bytes(self) -> tuple[int, int]:
        """That have left, up and down."""
        return self._proxy.up.bytes, self._proxy.down.bytes

    def play(self, steps: Iterable[Step]) -> None:
        """Rates as in a trace, from now on; the last ones stay. They become the normal ones."""
        self._do(self._proxy.play(steps))

    def normal(self) -> None:
        """The link as it was made: what hung goes on, new connections are accepted, at the normal rates and whole."""
        self._do(self._proxy.normal())

    def reset(self) -> int:
        """RST to both ends of every connection. As all that ends connections: new ones are let through; returns how
        many ended."""
        return self._do(self._proxy.end(_reset))

    def cut(self) -> int:
        """FIN to both ends of every connection; what is on its way is lost."""
        return self._do(self._proxy.end(_cut))

    def half_open(self, stays: End) -> int:
        """One end of every connection gets a RST; the one that `stays` is told nothing, and talks to nobody."""
        return self._do(self._proxy.end(_drop_server if stays == "client" else _drop_client))

    def hang(self) -> None:
        """Nothing passes and nothing is lost; connections stay, and new ones are accepted and hang too."""
        self._do(self._proxy.hang())

    def stall(self, seconds: float) -> None:
        """Nothing leaves for so long; what is in the air arrives."""
        self._do(self._proxy.stall(seconds))

    def throttle(self, rate: float) -> None:
        """This rate both ways, in bit/s."""
        self._do(self._proxy.change(lambda way: replace(way, rate=rate)))

    def slice(self, piece: int, pause_s: float) -> None:
        """At most so many bytes at a time, with pauses between."""
        self._do(self._proxy.change(lambda way: replace(way, piece=piece, pause_s=pause_s)))

    def refuse(self) -> None:
        """New connections are refused; those there are go on."""
        self._do(self._proxy.refuse())

    def close(self) -> None:
        """Close everything. Harmless when repeated."""
        if self._loop.is_closed():
            return
        self._do(self._proxy.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_S)
        self._loop.close()

    def _do(self, command: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(command, self._loop).result(COMMAND_S)


async def _make(to: tuple[str, int], up: Way, down: Way, seed: int, tap: Tap | None) -> _Proxy:
    return _Proxy(to, up, down, seed, tap)


def rate(text: str) -> float:
    """bit/s of "20M", "100k" or "9600"."""
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    return float(text[:-1] if factor > 1 else text) * factor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.emulator", description="A link between two programs.")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="of the server")
    parser.add_argument("--up", type=rate, default=math.inf, metavar="RATE", help="bit/s, such as 20M (no limit)")
    parser.add_argument("--down", type=rate, default=math.inf, metavar="RATE", help="bit/s (no limit)")
    parser.add_argument("--delay-ms", type=float, default=0.0, metavar="MS", help="each way (0)")
    parser.add_argument("--jitter-ms", type=float, default=0.0, metavar="MS", help="up to so much more (0)")
    parser.add_argument("--vary", nargs=4, type=rate, metavar="RATE", help="least and most up, least and most down")
    parser.add_argument(
        "--every", type=float, default=20.0, metavar="S", help="with --vary: seconds between draws (20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of jitter and --vary (0)")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    ways = (Way(rate, given.delay_ms / 1000, given.jitter_ms / 1000) for rate in (given.up, given.down))
    with Emulator((host, int(port)), *ways, seed=given.seed) as emulator:
        if given.vary:
            least_up, most_up, least_down, most_down = given.vary
            emulator.play(redrawn(given.seed, (least_up, most_up), (least_down, most_down), given.every, None))
        print(f"listening on {emulator.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
