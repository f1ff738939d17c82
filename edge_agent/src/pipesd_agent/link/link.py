"""The link: one WebSocket to a gateway, kept up, carrying the sessions of all clients.

`Link` connects, reconnects with backoff, to the next gateway of the list where one fails, and knows why there is no
connection; `Connection` is one WebSocket's life. The sessions (`streams`) outlive it: they are resumed on the next one,
unless the two ends do not understand each other. From a gateway that is about to end they go to another one as soon as
that has been connected to, but for those that only the first one can finish.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.breaker import BACKOFF_FIRST_S
from pipesd_agent.link.gateways import Gateway, Gateways
from pipesd_agent.link.requests import LinkSettings, Streams
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, ProtocolError, Unauthorized, Unavailable
from pipesd_core.protocol.messages import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Close,
    Draining,
    EdgeMessage,
    Endpoint,
    Failed,
    Open,
    Rejected,
    Resume,
    decode_gateway,
    encode,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

PING_INTERVAL_S: Final = 4.5
PING_TIMEOUT_S: Final = 4.5
"""Together the longest that a dead link goes unnoticed: twice the interval. A busy machine needs the timeout; where
even that is not enough, the link's sessions are resumed on the next one."""
CONNECT_TIMEOUT_S: Final = 5.0
BACKOFF_MOST_S: Final = 10.0
BACKOFF_WAITED_FOR_S: Final = 2.0
"""The most while clients wait for the link to come back."""
DRAINS_FOR_S: Final = 5.0
"""So long a gateway that was about to end is not gone back to: by then it refuses us, is gone, or is another one."""
CLOSE_LEAVING: Final = 1001
"""Tells the gateway that nothing of this connection will be resumed."""
CLOSE_RESTARTING: Final = 1012
"""From a gateway: it ends, and may come back."""
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
            await _hang_up(self._websocket, code)

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
                if stream.session.movable:
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


class Link:
    """Keeps a `Connection` up, to the first gateway of the list that takes it. `run` is its one task; whoever starts it
    cancels it."""

    def __init__(
        self,
        gateways: Gateways,
        settings: LinkSettings,
        worker: DraftWorker | None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.gateways = gateways
        self._settings = settings
        self._streams = Streams(settings, worker)
        self._tls = tls
        self._connection: Connection | None = None
        self._running: set[asyncio.Task[Any]] = set()
        """The link's connection, those that have been left, and the search for the next one."""
        self._settled = asyncio.Event()
        """Set while it is known whether there is a connection: it is up, or nothing can be tried now."""
        self._wanted = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.over.done()

    @property
    def state(self) -> str:
        """For `/health`: "connected", or why not."""
        return "connected" if self.connected else str(self.gateways.why)

    @property
    def requests(self) -> int:
        """That have not ended, neither for their clients nor at the gateway."""
        return len(self._streams)

    async def request(
        self, endpoint: Endpoint, body: bytes, request_id: str, *, collaborative: bool = True
    ) -> RequestStream:
        """Open a session, connecting first where that is needed. Raises ApiError, within `CONNECT_TIMEOUT_S` for each
        gateway."""
        if not self.connected:
            self._settled.clear()
            self._wanted.set()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S * len(self.gateways) + 1):
                    await self._settled.wait()
            except TimeoutError:
                raise Unavailable(f"the gateway {self.gateways} does not answer; try again") from None
        if not self.connected:
            raise self.gateways.why
        return self._streams.request(endpoint, body, request_id, collaborative=collaborative)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        try:
            await self._keep_up()
        finally:
            self._connection = None
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._streams.over(Unavailable("the agent is shutting down; try again later"))

    async def _keep_up(self) -> None:
        while True:
            served = await self._round()
            if not served or not self._wanted.is_set():
                self._settled.set()
            # The agents of a gateway that went down do not all come back, or go to the next one, at once.
            pause = max(self.gateways.due_in(time.monotonic()), random.uniform(0.0, BACKOFF_FIRST_S) if served else 0.0)
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _round(self) -> bool:
        """Try the gateways in turn, all of them if a client waits; True: one took us, and was served to its end."""
        waited_for = self._wanted.is_set()
        self._wanted.clear()
        for gateway in self.gateways.order(time.monotonic()):
            if gateway.circuit.wait(time.monotonic()) and not (waited_for or self._wanted.is_set()):
                break
            if (websocket := await self._dial(gateway)) is not None:
                await self._serve(gateway, websocket)
                return True
        return False

    async def _serve(self, gateway: Gateway, websocket: ClientConnection) -> None:
        """Serve until the connection ends, and those that take its place because a gateway is about to end."""
        while True:
            connection = self._begin(gateway, websocket)
            succession = self._keep(self._successor(gateway, connection))
            found: object = None
            try:
                await asyncio.wait((connection.over, succession), return_when=asyncio.FIRST_COMPLETED)
                succession.cancel()
                (found,) = await asyncio.gather(succession, return_exceptions=True)
            finally:
                succession.cancel()
                if found is None and succession.done() and not succession.cancelled() and not succession.exception():
                    self._keep(_hang_up(succession.result()[1], CLOSE_LEAVING))
            if isinstance(found, Exception):
                raise found
            if connection.over.done():
                self._ended(gateway, connection.over.result())
            else:
                connection.leave()
                gateway.circuit.left(time.monotonic())
            if not isinstance(found, tuple):
                return
            gateway, websocket = found

    async def _successor(self, gateway: Gateway, connection: Connection) -> tuple[Gateway, ClientConnection]:
        """A connection to another gateway, once this one is about to end."""
        seconds = await asyncio.shield(connection.draining)
        log.info("the gateway %s is about to end, in %g s at the latest", gateway.address.http, seconds)
        patient = False
        while True:
            gateway.drains(time.monotonic(), DRAINS_FOR_S)
            for other in self.gateways.order(time.monotonic()):
                now = time.monotonic()
                if other is gateway or other.draining(now) or (patient and other.circuit.wait(now)):
                    continue
                if (websocket := await self._dial(other)) is not None:
                    return other, websocket
            patient = True
            connection.others = False
            self._streams.refuse()
            await asyncio.sleep(BACKOFF_FIRST_S)

    def _begin(self, gateway: Gateway, websocket: ClientConnection) -> Connection:
        others = len(self.gateways) > 1
        connection = Connection(websocket, self._streams, self._settings.room_at, others=others)
        self._connection = connection
        self._keep(connection.run())
        gateway.circuit.connected(time.monotonic())
        gateway.drains(time.monotonic(), 0.0)
        self.gateways.serves(gateway)
        self._settled.set()
        log.info("connected to %s", gateway.address.socket)
        return connection

    def _ended(self, gateway: Gateway, why: ApiError) -> None:
        self._connection = None
        self.gateways.serves(None)
        gateway.why = why
        log.warning("%s", why)
        if isinstance(why, NotUnderstood):
            gateway.circuit.failed(time.monotonic(), self._longest_wait)
        else:
            gateway.circuit.ended(time.monotonic(), self._longest_wait)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the link failed", exc_info=error)

    @property
    def _longest_wait(self) -> float:
        return BACKOFF_WAITED_FOR_S if len(self._streams) else BACKOFF_MOST_S

    async def _dial(self, gateway: Gateway) -> ClientConnection | None:
        """A connection to this gateway; None: there is none, and it is noted why."""
        gateway.circuit.begin(time.monotonic())
        try:
            return await self._connect(gateway)
        except ApiError as error:
            if str(error) != str(gateway.why):
                log.warning("%s", error)
            gateway.why = error
        except Exception as error:
            # A bug, or a setting that nobody thought of. Requests are told; without this task they would only wait.
            log.exception("the attempt to connect failed")
            gateway.why = Unavailable(f"cannot connect to the gateway: {error!r}; see the agent's log")
        gateway.circuit.failed(time.monotonic(), self._longest_wait)
        return None

    async def _connect(self, gateway: Gateway) -> ClientConnection:
        """Raises ApiError."""
        key, url = self._settings.api_key, gateway.address.socket
        try:
            websocket = await connect(
                url,
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
                additional_headers={"Authorization": f"Bearer {key}"} if key else {},
                compression=None,
                open_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_FRAME_BYTES,
                write_limit=SOCKET_BUFFER_BYTES,
                ssl=self._tls if gateway.address.secure else None,
            )
        except (OSError, InvalidHandshake, InvalidURI, ssl.SSLError) as error:
            raise _why_not(error, url) from error
        if websocket.subprotocol != SUBPROTOCOL:
            await _hang_up(websocket, CLOSE_LEAVING)
            raise Unavailable(f"{url} does not speak {SUBPROTOCOL}: is it a PipeSD gateway's address?")
        self._bound_kernel_buffer(websocket)
        return websocket

    def _bound_kernel_buffer(self, websocket: ClientConnection) -> None:
        raw = websocket.transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            try:
                raw.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, SOCKET_BUFFER_BYTES)
            except OSError as error:  # not on this system: the buffer is the kernel's then
                log.debug("TCP_NOTSENT_LOWAT: %s", error)


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
