"""The HTTP behaviour that gateway and agent share: bodies, disconnects, events, request ids, errors.

Every error has the shape that its route's clients know (`answer_format`), those of unknown routes too; an error in
mid-stream is an event, because a bare close looks like success to the OpenAI SDK.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from pipesd_core import sse
from pipesd_core.answer_format import error_body
from pipesd_core.errors import ApiError, EngineFailed, InvalidRequest, Overloaded
from pipesd_core.occupancy import Occupancy
from pipesd_core.openai_parameters import IGNORED_HEADER
from pipesd_core.service import logs
from pipesd_core.service.content_coding import decoder_of
from pipesd_core.service.hosts import HostNames
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.request_head import ALLOWED
from pipesd_core.text_encoding import NotUtf8, without_mark

MAX_BODY_BYTES: Final = 4 * 2**20 - 1024
"""Largest body: the `open` message that carries it stays below the protocol's MAX_FRAME_BYTES."""
BODY_TIMEOUT_S: Final = 60.0
"""Longest time for a client to send its body."""
SEND_TIMEOUT_S: Final = 60.0
"""Longest time for a client to take one chunk of a stream."""
MAX_REQUESTS: Final = 256
"""Most requests under way at a time, each with a body of up to MAX_BODY_BYTES; other bounds apply after the body."""
HANG_UP: Final = "pipesd_hang_up"
"""Key in a scope's `state`: a function that ends the connection at once, from a server that has one (`limits`)."""
FAREWELL_S: Final = 2.0
"""At shutdown: time for a stream to send its last event."""
COMMENT_EVERY_S: Final = 5.0
"""Time between two comments of a stream: clients and proxies do not wait long for the next byte."""
_KEEP_ALIVE: Final = ServerSentEvent(comment="keep-alive", sep="\n")

log = logging.getLogger(__name__)

T = TypeVar("T")


class BodyTooLarge(InvalidRequest):
    status = 413


class BodyTooSlow(InvalidRequest):
    status = 408


class NotUtf8Body(InvalidRequest):
    """The body begins with the mark of UTF-16 or UTF-32."""


class NoSuchRoute(InvalidRequest):
    status = 404


class WrongMethod(InvalidRequest):
    status = 405


class ForeignOrigin(InvalidRequest):
    status = 403


class ClientGone(Exception):
    """The client has gone; nobody reads the answer."""


def install(
    app: Starlette, lifecycle: Lifecycle, cors_origins: tuple[str, ...] = (), hosts: HostNames | None = None
) -> None:
    """Give an app its request ids and its OpenAI-shaped errors, and keep web pages out but those of `cors_origins`.

    `lifecycle` counts its requests, and refuses new ones when it drains. hosts: the names it answers to; None: any.
    """
    app.add_middleware(_RequestCounter, lifecycle=lifecycle)
    # The last one added is the outermost.
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),  # OpenAI's client sends many of its own
            expose_headers=(
                "x-request-id",
                "x-pipesd-seed",
                "x-pipesd-mode",
                IGNORED_HEADER,
                "retry-after",
                "retry-after-ms",
            ),
            allow_private_network=True,  # what browsers before Local Network Access ask of a server at localhost
        )
    app.add_middleware(_Callers, origins=frozenset(cors_origins), hosts=hosts or HostNames())
    app.add_middleware(_RequestIds)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(sse.escaped(msgspec.json.encode(value)), status, headers, media_type="application/json")


class EventStream(EventSourceResponse):
    """Ready-made server-sent events. Calls `done` however the response ends, also when it never began."""

    def __init__(self, events: AsyncIterator[bytes], done: Callable[[], None], headers: dict[str, str]) -> None:
        super().__init__(
            events,
            headers=headers,
            sep="\n",
            ping=COMMENT_EVERY_S,
            ping_message_factory=lambda: _KEEP_ALIVE,
            send_timeout=SEND_TIMEOUT_S,
            shutdown_grace_period=FAREWELL_S,
        )
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            hang_up = scope.get("state", {}).get(HANG_UP)
            if hang_up is None:
                raise
            log.info("stream aborted: the client read nothing for %g s", SEND_TIMEOUT_S)
            hang_up()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._done()


def error_response(path: str, error: ApiError, headers: dict[str, str] | None = None) -> Response:
    """The response to a request for `path` that an error is. headers: instead of the error's own."""
    own = error.headers() if headers is None else headers
    return json_response(error_body(path, error), error.status, own)


async def read_body(request: Request) -> bytes:
    """The body of a request, decoded, without a byte order mark.

    Raises BodyTooLarge, BodyTooSlow, NotUtf8Body, ClientGone, or another InvalidRequest.
    """
    parts: list[bytes] = []
    sent, size = 0, 0
    decoder = decoder_of(request.headers.getlist("content-encoding"))
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                sent += len(part)
                parts.append(decoder.decode(part, MAX_BODY_BYTES + 1 - size))
                size += len(parts[-1])
                if max(sent, size) > MAX_BODY_BYTES:
                    raise BodyTooLarge(f"the body is larger than the limit of {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except ClientDisconnect:
        raise ClientGone from None
    decoder.finish()
    try:
        return without_mark(b"".join(parts))
    except NotUtf8 as error:
        raise NotUtf8Body(f"the body is {error}; send JSON in UTF-8") from None


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. The body has been read before."""
    task, watch = asyncio.create_task(work), asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Wait until the client is gone. The body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def request_id_of(request: Request) -> str:
    """The id that the response to a request carries as `x-request-id`."""
    request_id: str = request.scope["pipesd.request_id"]
    return request_id


class _RequestIds:
    """Gives every response an `x-request-id`: the client's own, or a new one. Logs them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        sensible = 0 < len(given) <= 128 and all(0x21 <= byte <= 0x7E for byte in given)
        request_id = given if sensible else f"req_{uuid.uuid4().hex}".encode()

        scope["pipesd.request_id"] = request_id.decode()
        logs.request_id.set(request_id.decode())
        began, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # Without the query string: a client may have put a key there by mistake.
            level = logging.INFO if scope["path"].startswith("/v1/") else logging.DEBUG
            seconds = time.monotonic() - began
            log.log(level, "%s %.128s: %d in %.3f s", scope["method"], scope["path"], status, seconds)


class _RequestCounter:
    """Counts the requests of the API that are under way, their streams included.

    Refuses new ones in a drain, and more than MAX_REQUESTS.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._under_way = Occupancy()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (scope["path"].startswith("/v1/") or scope["method"] == "POST"):
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] == "POST":
                self._lifecycle.admit()
                if self._lifecycle.requests >= MAX_REQUESTS:
                    raise Overloaded(
                        f"{MAX_REQUESTS} requests are under way at this server, its limit; try again",
                        retry_after_s=self._under_way.wait_s(),
                    )
        except ApiError as error:
            await error_response(scope["path"], error)(scope, receive, send)
            return
        self._lifecycle.requests += 1
        self._under_way.take()
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way.free()
            self._lifecycle.requests -= 1


class _Callers:
    """Refuses what a web page sends, WebSockets included, unless its origin is allowed, and other servers' names.

    That a page cannot read the answers (CORS) is not enough: on a user's own machine, where no key is asked for, any
    page could still spend the model's time; and for WebSockets, or where a page's host name is made to point here, a
    browser does not even hide the answers.
    """

    def __init__(self, app: ASGIApp, origins: frozenset[str], hosts: HostNames) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts
        self._refusals = logs.Changes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        try:
            self._hosts.check(headers.get(b"host", b"").decode("latin-1"))
            self._check_origin(headers.get(b"origin", b"").decode("latin-1"))
        except InvalidRequest as error:
            response = error_response(scope["path"], error, {})
            if scope["type"] == "http":
                await response(scope, receive, send)
            else:
                if self._refusals.new("refused", str(error)):
                    log.warning("a WebSocket is refused: %s", error)
                await WebSocket(scope, receive, send).send_denial_response(response)
            return
        await self._app(scope, receive, send)

    def _check_origin(self, origin: str) -> None:
        if origin and origin not in self._origins and "*" not in self._origins:
            raise ForeignOrigin(f"web pages of {origin[:128]!r} may not use this server: allow them with --cors-origin")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request.scope["path"], error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path: str = request.scope["path"]
    if path == "*":  # of no resource, but of the server: RFC 9110, 9.3.7; only OPTIONS comes so far
        return Response(status_code=204, headers={"allow": ALLOWED})
    what = f"{request.method} {path[:128]}"
    wrong: ApiError
    if error.status_code == 404:
        wrong = NoSuchRoute(f"there is no {what}; the API is under /v1, such as POST /v1/chat/completions")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        wrong = WrongMethod(f"{what} does not exist; use {allowed}")
    else:
        wrong = InvalidRequest(str(error.detail))
    return json_response(error_body(path, wrong), error.status_code, dict(error.headers or {}))


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nginx's "client closed request"; for the log, nobody reads it


async def _on_bug(request: Request, _: Exception) -> Response:
    """Answer with an internal error; Starlette logs the exception after this."""
    return error_response(request.scope["path"], EngineFailed("internal error; see the server's log"))
