"""The link: one WebSocket to a gateway, kept up, carrying the sessions of all clients.

`Link` connects (`dialing`), reconnects with backoff, to the next gateway of the list where one fails, and knows why
there is no connection; `connection` is one WebSocket's life. The sessions (`requests`) outlive it: they are resumed on
the next one, unless the two ends do not understand each other. From a gateway that is about to end they go to another
one as soon as that has been connected to, but for those that only the first one can finish.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from websockets.asyncio.client import ClientConnection

from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.breaker import BACKOFF_FIRST_S
from pipesd_agent.link.connection import DRAINS_FOR_S, Connection, NotUnderstood, hang_up
from pipesd_agent.link.dialing import CONNECT_TIMEOUT_S, dial
from pipesd_agent.link.gateways import Gateway, Gateways
from pipesd_agent.link.requests import LinkSettings, Streams
from pipesd_agent.session.observer import SessionObserver
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, Unavailable
from pipesd_core.protocol.messages import (
    Endpoint,
)
from pipesd_core.protocol.websocket import CLOSE_LEAVING

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_MOST_S: Final = 10.0
BACKOFF_WAITED_FOR_S: Final = 2.0
"""The most while clients wait for the link to come back."""


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
        self,
        endpoint: Endpoint,
        body: bytes,
        request_id: str,
        *,
        collaborative: bool = True,
        observers: Sequence[SessionObserver] = (),
    ) -> RequestStream:
        """Open a session, connecting first where that is needed. Raises ApiError, within `CONNECT_TIMEOUT_S` for each
        gateway.

        observers: of this session, besides those that its policies bring.
        """
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
        return self._streams.request(endpoint, body, request_id, collaborative=collaborative, observers=observers)

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
                    self._keep(hang_up(succession.result()[1], CLOSE_LEAVING))
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
            return await dial(gateway.address, self._settings.api_key, self._tls)
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
