"""The link: a WebSocket to a gateway that carries the sessions of all clients, and is reconnected when it is lost.

`Link` connects (`dialing`), reconnects with backoff, to the next gateway of the list where one fails, and knows why
there is no connection. A `Connection` is one WebSocket. The sessions (`requests`) outlive it: they are resumed on the
next one, unless the two ends disagree about the protocol. From a gateway that is about to end they migrate to another
one as soon as that is connected to, except those that only the first one can finish. The other one may be at the same
address: a load balancer's, which is many servers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from websockets.asyncio.client import ClientConnection

from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.circuit_breaker import BACKOFF_FIRST_S, STABLE_S
from pipesd_agent.link.connection import (
    DRAINING_ASSUMED_S,
    Connection,
    ProtocolMismatch,
    close_websocket,
)
from pipesd_agent.link.dialing import CONNECT_TIMEOUT_S, dial, instance_of
from pipesd_agent.link.gateways import AGAIN_S, Gateway, Gateways
from pipesd_agent.link.network import Network
from pipesd_agent.link.requests import LinkSettings, RequestTable
from pipesd_agent.session.observer import SessionObserver
from pipesd_agent.session.stream import RequestStream
from pipesd_core.errors import ApiError, ShuttingDown, Unavailable
from pipesd_core.protocol.messages import (
    Endpoint,
)
from pipesd_core.protocol.websocket import CLOSE_LEAVING

log = logging.getLogger(__name__)

T = TypeVar("T")

BACKOFF_LIMIT_S: Final = 10.0
"""Bound of the time between two attempts to connect."""
BACKOFF_LIMIT_WITH_CLIENTS_S: Final = 2.0
"""Longest wait while clients wait for the link to come back."""


class Link:
    """Keeps a `Connection` to the first gateway of the list that accepts one.

    The agent starts `run`, and cancels it.
    """

    def __init__(
        self,
        gateways: Gateways,
        settings: LinkSettings,
        worker: DraftWorker | None,
        network: Network | None = None,
    ) -> None:
        self.gateways = gateways
        self._settings = settings
        self._requests = RequestTable(settings, worker)
        self._network = network
        self._connection: Connection | None = None
        self._running: set[asyncio.Task[Any]] = set()
        """Tasks of the connection, of superseded ones, and of the search for the next one."""
        self._settled = asyncio.Event()
        """Set while there is a connection, or nothing can be tried now."""
        self._connection_wanted = asyncio.Event()
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.ended.done()

    @property
    def state(self) -> str:
        """Text for `/health`: "connected", or why not."""
        return "connected" if self.connected else str(self.gateways.error)

    @property
    def requests(self) -> int:
        """Number of requests that have not ended, for their clients or at the gateway."""
        return len(self._requests)

    async def request(
        self,
        endpoint: Endpoint,
        body: bytes,
        request_id: str,
        *,
        collaborative: bool = True,
        observers: Sequence[SessionObserver] = (),
    ) -> RequestStream:
        """Open a session, after connecting where that is needed.

        observers: of this session, besides those that its policies bring.

        Raises ApiError, within `CONNECT_TIMEOUT_S` for each gateway and `AGAIN_S`.
        """
        if not self.connected and not self._closed:
            self._settled.clear()
            self._connection_wanted.set()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S * len(self.gateways) + AGAIN_S + 1):
                    await self._settled.wait()
            except TimeoutError:
                raise Unavailable(f"the gateway {self.gateways} does not answer; try again") from None
        if not self.connected and not self._closed:
            raise self.gateways.error
        return self._requests.open(endpoint, body, request_id, collaborative=collaborative, observers=observers)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        self._closed = False
        why: Unavailable = ShuttingDown("the agent is shutting down; try again later")
        try:
            await self._stay_connected()
        except Exception as error:  # a bug; whoever runs this logs it, and runs it again
            why = Unavailable(f"the link failed inside this agent ({type(error).__name__}): see its log, and try again")
            raise
        finally:
            self._connection = None
            self.gateways.set_current(None)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            self._requests.close(why)
            if isinstance(why, ShuttingDown):
                self._closed = True
                self._settled.set()  # requests that wait for a connection are told so

    async def _stay_connected(self) -> None:
        while True:
            served = await self._try_for_clients()
            if not served or not self._connection_wanted.is_set():
                self._settled.set()
            # The agents of a gateway that went down do not all come back, or go to the next one, at once.
            pause = max(
                self.gateways.next_attempt_in(time.monotonic()), random.uniform(0.0, BACKOFF_FIRST_S) if served else 0.0
            )
            try:
                async with asyncio.timeout(pause):
                    await self._connection_wanted.wait()
            except TimeoutError:
                pass

    async def _try_for_clients(self) -> bool:
        """`_try_gateways`, again for `AGAIN_S` where a client waits and the next attempt may meet another server."""
        until = time.monotonic() + AGAIN_S
        while not await self._try_gateways():
            if self._settled.is_set() or not self.gateways.declined or time.monotonic() >= until:
                return False
            await asyncio.sleep(random.uniform(0.0, BACKOFF_FIRST_S))
            self._connection_wanted.set()
        return True

    async def _try_gateways(self) -> bool:
        """Try the gateways in turn, all of them if a client waits. True: one accepted, and its connection has ended."""
        client_waits = self._connection_wanted.is_set()
        self._connection_wanted.clear()
        for gateway in self.gateways.in_attempt_order(time.monotonic()):
            if gateway.circuit.wait(time.monotonic()) and not (client_waits or self._connection_wanted.is_set()):
                break
            if (websocket := await self._dial(gateway)) is not None:
                await self._serve(gateway, websocket)
                return True
        return False

    async def _serve(self, gateway: Gateway, websocket: ClientConnection) -> None:
        """Serve until the connection, and those that supersede it because a gateway is about to end, have ended."""
        while True:
            connection = self._adopt(gateway, websocket)
            successor = self._spawn(self._successor(gateway, connection))
            found: object = None
            try:
                await asyncio.wait((connection.ended, successor), return_when=asyncio.FIRST_COMPLETED)
                successor.cancel()
                (found,) = await asyncio.gather(successor, return_exceptions=True)
            finally:
                successor.cancel()
                if found is None and successor.done() and not successor.cancelled() and not successor.exception():
                    self._spawn(close_websocket(successor.result()[1], CLOSE_LEAVING))
            if isinstance(found, Exception):
                raise found
            if connection.ended.done():
                self._note_end(gateway, connection.ended.result())
            else:
                connection.supersede()
                gateway.circuit.left(time.monotonic())
            if not isinstance(found, tuple):
                return
            gateway, websocket = found

    async def _successor(self, gateway: Gateway, connection: Connection) -> tuple[Gateway, ClientConnection]:
        """Connect to another gateway, or another server at the same address, once this one is about to end."""
        while True:
            seconds = await asyncio.shield(connection.draining)
            if connection.announced:
                log.info("link: gateway %s is draining, ends within %g s", gateway.address.http, seconds)
            if (found := await self._search(gateway, connection)) is not None:
                return found
            gateway.set_draining(time.monotonic(), 0.0)
            connection.serves_on()

    async def _search(self, gateway: Gateway, connection: Connection) -> tuple[Gateway, ClientConnection] | None:
        """`_successor`'s search; None: there is none, and all that this gateway did was refuse something."""
        respect_backoff = False
        # An address in a list of them is tried again as well, but nobody waits for that longer than for the list.
        hopeless_at = time.monotonic() + (AGAIN_S if len(self.gateways) == 1 else 0.0)
        pause = BACKOFF_FIRST_S
        while True:
            gateway.set_draining(time.monotonic(), DRAINING_ASSUMED_S)
            for other in self.gateways.in_attempt_order(time.monotonic()):
                now = time.monotonic()
                if other is gateway or other.draining(now) or (respect_backoff and other.circuit.wait(now)):
                    continue
                if (websocket := await self._dial(other)) is not None:
                    return other, websocket
            if (websocket := await self._dial_beside(gateway, connection.instance)) is not None:
                return gateway, websocket
            respect_backoff = True
            if time.monotonic() >= hopeless_at or connection.instance is None:
                connection.has_alternative = False
                self._requests.no_other_gateway()
                if not connection.announced:
                    return None
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)
            pause = min(2 * pause, BACKOFF_LIMIT_WITH_CLIENTS_S)

    async def _dial_beside(self, gateway: Gateway, instance: str | None) -> ClientConnection | None:
        """Connect to a gateway's address where another server answers than the one of that name; None: none does."""
        if instance is None:
            return None
        try:
            websocket = await dial(gateway.address, self._settings.api_key, self._network)
        except ApiError:
            return None  # no fault of the gateway that we are connected to
        except Exception:
            log.exception("link: the attempt to connect failed")
            return None
        if instance_of(websocket) == instance:
            await close_websocket(websocket, CLOSE_LEAVING)
            return None
        return websocket

    def _adopt(self, gateway: Gateway, websocket: ClientConnection) -> Connection:
        instance = instance_of(websocket)
        has_alternative = len(self.gateways) > 1 or instance is not None
        connection = Connection(
            websocket, self._requests, self._settings.room_at, instance=instance, has_alternative=has_alternative
        )
        self._connection = connection
        self._requests.link_restored()  # at once: whoever sees that the link is up may open a request
        self._spawn(connection.run())
        gateway.circuit.connected(time.monotonic())
        gateway.set_draining(time.monotonic(), 0.0)
        self.gateways.set_current(gateway)
        self._settled.set()
        if gateway.lost_early:  # as the next one may be: said when it is not
            asyncio.get_running_loop().call_later(STABLE_S, self._say_connected, gateway, connection)
        else:
            self._say_connected(gateway, connection)
        return connection

    def _say_connected(self, gateway: Gateway, connection: Connection) -> None:
        if not connection.ended.done():
            gateway.logged.new("")
            log.info("link: connected to %s", gateway.address.socket)

    def _note_end(self, gateway: Gateway, error: ApiError) -> None:
        self._connection = None
        self.gateways.set_current(None)
        gateway.error = error
        gateway.lost_early = isinstance(error, ProtocolMismatch) or not gateway.circuit.stable(time.monotonic())
        if gateway.logged.new(str(error)):
            log.warning("link: %s", error)
        if isinstance(error, ProtocolMismatch):
            gateway.circuit.failed(time.monotonic(), self._backoff_limit_s)
        else:
            gateway.circuit.ended(time.monotonic(), self._backoff_limit_s)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("link: a task failed", exc_info=error)

    @property
    def _backoff_limit_s(self) -> float:
        return BACKOFF_LIMIT_WITH_CLIENTS_S if len(self._requests) else BACKOFF_LIMIT_S

    async def _dial(self, gateway: Gateway) -> ClientConnection | None:
        """Connect to a gateway. None: it failed, and `gateway.error` says why."""
        gateway.circuit.begin(time.monotonic())
        try:
            return await dial(gateway.address, self._settings.api_key, self._network)
        except ApiError as error:
            gateway.lost_early = False
            if gateway.logged.new(str(error)):
                log.warning("link: %s", error)
            gateway.error = error
        except Exception as error:
            # A bug, or a setting that nobody thought of. Requests fail with it; without this task they would only wait.
            if gateway.logged.new(repr(error)):
                log.exception("link: the attempt to connect failed")
            gateway.error = Unavailable(f"cannot connect to the gateway: {error!r}; see the agent's log")
        gateway.circuit.failed(time.monotonic(), self._backoff_limit_s)
        return None
