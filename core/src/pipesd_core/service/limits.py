"""uvicorn's protocols with bounds on the memory and the time that a peer can take.

Every bound is in docs/limits.md. Errors are OpenAI-shaped, also before a request reaches the app. `uvicorn_compat`
declares which private parts of uvicorn are used here.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final

import h11
import msgspec
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame

from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.service.http import BODY_TIMEOUT_S, HANG_UP, SEND_TIMEOUT_S, json_response
from pipesd_core.service.request_head import RefusedHead, ServerConnection, UnknownCoding, status_of
from pipesd_core.sse import escaped

MAX_CONNECTIONS: Final = 512
"""Most connections at a time, WebSockets included. For one more the one that has been idle for longest is closed;
where none is, its request gets a 503. Below the usual 1024 open files."""
MAX_REFUSED: Final = 64
"""Most connections beyond these that get the 503; further ones are just closed."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Most bytes of a request's first line and headers."""
HEAD_TIMEOUT_S: Final = 30.0
"""Longest time from the beginning of a connection, or of the next request on it, to the end of the head."""
BODY_SLACK_S: Final = 5.0
"""Time that a body which the app does not read (any more) may take beyond that of one that it reads."""
LINGER_S: Final = 1.0
"""Time after a refusal in which incoming bytes are dropped: closing at once would reset the connection, and the client
would not see the refusal."""
CLOSE_S: Final = 3.0
"""Longest time for a WebSocket's peer to take what is left for it after the last message. Without a bound a dead peer
would keep the socket, and the sessions on it, until TCP gives up."""
MAX_FRAGMENTS: Final = 4096
"""Most fragments of one WebSocket message. Our agents send 4 KiB in each; empty ones could fill the memory."""
MAX_UNREAD_BYTES: Final = 2**20
"""Most bytes that wait for an agent that pings and does not read the pongs."""


class HeadTooLarge(InvalidRequest):
    status = 431


class HeadTooSlow(InvalidRequest):
    status = 408


class BoundedHttp(H11Protocol):
    """One HTTP connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {HANG_UP: self._hang_up}, _loop)
        self.conn: ServerConnection = ServerConnection(MAX_HEAD_BYTES)
        self._served = self.app
        self.app = self._serve
        self._awaited: Callable[[], None] | None = None
        """The function to call when the awaited part of a request does not come in time."""
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._refused = False
        self._over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn.secure = self.scheme == "https"
        if len(self.connections) > MAX_CONNECTIONS:
            held = sum(not connection.transport.is_closing() for connection in self.connections)
            if held > MAX_CONNECTIONS and not self._displace_idle():
                if held > MAX_CONNECTIONS + MAX_REFUSED:
                    transport.abort()
                    return
                self._refused = True
                self.app = _too_many
        self._await(self._no_head, HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._begun = True
        super().data_received(data)
        if not self._over:
            self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._over:
            self._look()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._await(None)
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request. Called while the error is being handled."""
        error = sys.exception()
        if isinstance(error, RefusedHead):
            self._refuse(error.error, error.method)
        elif status_of(error) == HeadTooLarge.status:
            self._refuse(HeadTooLarge(f"the head of the request is larger than the limit of {MAX_HEAD_BYTES} bytes"))
        elif status_of(error) == UnknownCoding.status:
            self._refuse(UnknownCoding("the Transfer-Encoding is unknown: chunked is the only one (RFC 9112, 6.1)"))
        else:
            self._refuse(InvalidRequest(f"this is no HTTP request: {error or msg}"))

    def _should_upgrade(self) -> bool:
        return not self._refused and super()._should_upgrade()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app; says in its answer how long the connection stays open after that."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and self._stays_open(scope["headers"], message["headers"]):
                timeout = (b"keep-alive", b"timeout=%d" % self.timeout_keep_alive)
                message["headers"] = [*message["headers"], timeout]
            await send(message)

        await self._served(scope, receive, send_on)

    def _stays_open(self, *headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the connection stays open after the answer. headers: the request's and the answer's."""
        options = [value.lower() for each in headers for name, value in each if name.lower() == b"connection"]
        return (
            self.conn.their_http_version == b"1.1"
            and self.cycle.keep_alive
            and not self.conn.they_are_waiting_for_100_continue
            and not any(b"close" in map(bytes.strip, value.split(b",")) for value in options)
        )

    @property
    def idle_until(self) -> float | None:
        """When the connection will be closed for having been idle, in the loop's time; None: it is not idle."""
        timer, begun = self.timeout_keep_alive_task, self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]
        if timer is None or begun or self.transport.get_write_buffer_size() or self.transport.is_closing():
            return None
        return timer.when()

    def _displace_idle(self) -> bool:
        """Close the connection that has been idle for longest. False: none is idle."""
        others = (other for other in self.connections if isinstance(other, BoundedHttp))
        idle = [(until, id(other), other) for other in others if (until := other.idle_until) is not None]
        if not idle:
            return False
        min(idle)[2].transport.abort()  # nothing is left for its client; TLS would wait for its goodbye
        return True

    def _look(self) -> None:
        """Set the timer for the part of a request that is awaited now."""
        state = self.conn.their_state
        if self.transport.get_protocol() is not self:
            pass  # it has become a WebSocket
        elif state is h11.SEND_BODY:
            self._await(self._no_body, BODY_TIMEOUT_S + BODY_SLACK_S)
        elif state is h11.IDLE and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._await(self._no_head, HEAD_TIMEOUT_S)
        else:
            self._begun = False
            self._await(None)

    def _await(self, or_else: Callable[[], None] | None, seconds: float = 0.0) -> None:
        if or_else == self._awaited:
            return
        self._awaited = or_else
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if or_else is None else self.loop.call_later(seconds, or_else)

    def _no_head(self) -> None:
        if self._begun:
            self._refuse(HeadTooSlow(f"the head of the request did not arrive within {HEAD_TIMEOUT_S:g} s"))
        else:
            self.transport.close()

    def _no_body(self) -> None:
        self.transport.close()  # the app has answered long ago

    def _refuse(self, error: ApiError, method: bytes = b"") -> None:
        """Answer with an error, if nothing has been answered yet, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = escaped(msgspec.json.encode(error.body()))
            headers = [
                *self.server_state.default_headers,  # Date
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *((name.encode(), value.encode()) for name, value in error.headers().items()),
            ]
            reason = HTTPStatus(error.status).phrase.encode()
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=reason),
                h11.Data(data=b"" if method == b"HEAD" else body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self._over = True
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._await(self.transport.close, LINGER_S)
        else:
            self.transport.close()

    def _hang_up(self) -> None:
        """End the connection without sending what is left. The app calls this."""
        self.transport.abort()

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be added to what waits for the client."""
        return self.transport.is_closing() or self.cycle is None or self.cycle.response_complete


class KeptAlive(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, but a peer that does not answer is let go of at once."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(CLOSE_S, self.transport.abort)


class BoundedWebSocket(KeptAlive):
    """One agent's WebSocket. Messages in it are bounded by `Config.ws_max_size`, unread ones to one."""

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(1009, f"more than {MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        super().handle_ping()
        if self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.transport.abort()

    @property
    def is_finished(self) -> bool:
        return self.transport.is_closing()


class StalledWriters:
    """Cuts connections whose peer does not take the rest of the answer: `transport.close` alone waits for ever."""

    def __init__(self) -> None:
        self._left: dict[Any, tuple[int, float]] = {}

    def sweep(self, connections: Iterable[Any]) -> None:
        """Cut connections whose peer has taken nothing for SEND_TIMEOUT_S. To be called about once a second."""
        now = time.monotonic()
        before, self._left = self._left, {}
        for connection in list(connections):
            left = connection.transport.get_write_buffer_size()
            if not left or not connection.is_finished:
                continue
            size, since = before.get(connection, (left, now))
            if left < size:
                since = now
            if now - since >= SEND_TIMEOUT_S:
                connection.transport.abort()
            else:
                self._left[connection] = (left, since)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    error = Unavailable(f"{MAX_CONNECTIONS} connections are open at this server, its limit; try again")
    headers = error.headers() | {"connection": "close"}
    await json_response(error.body(), error.status, headers)(scope, receive, send)
