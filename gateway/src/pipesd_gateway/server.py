"""The gateway's HTTP side: an OpenAI API with target-only answers, and what an agent asks before it connects.

`create_app` gives the app; `pipesd_gateway.ws.attach` adds the WebSocket route to it. Both check keys by `authorize`.
Every error is OpenAI-shaped, those of unknown routes too; an error in mid-stream is a `data: {"error": ...}`, because a
bare close looks like success to the OpenAI SDK.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

import msgspec
from fastapi import FastAPI
from msgspec import Struct
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipesd_gateway.alone import Alone
from pipesd_gateway.engine import Engine
from pipesd_gateway.exceptions import ApiError, EngineFailed, InvalidRequest, Unauthorized
from pipesd_gateway.protocol import SUBPROTOCOL, Endpoint

MAX_BODY_BYTES: Final = 4 * 2**20
BODY_TIMEOUT_S: Final = 60.0
"""Longest time for a client to send its body."""
SEND_TIMEOUT_S: Final = 60.0
"""Longest time for a client to take one chunk of a stream."""
FAREWELL_S: Final = 2.0
"""At shutdown: time for a stream to tell its client so."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


class BodyTooLarge(InvalidRequest):
    status = 413


class BodyTooSlow(InvalidRequest):
    status = 408


class NoSuchRoute(InvalidRequest):
    status = 404


class WrongMethod(InvalidRequest):
    status = 405


class _ClientGone(Exception):
    """Nobody is there to read the answer any more."""


def create_app(engine: Engine, *, api_keys: frozenset[str] = frozenset()) -> FastAPI:
    """The app over `engine`, which stays the caller's to close. No `api_keys`: open to everybody."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(_RequestId)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(_ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_bug)
    started = int(time.time())

    async def chat_completions(request: Request) -> Response:
        return await _answer(request, engine, api_keys, Endpoint.CHAT_COMPLETIONS)

    async def completions(request: Request) -> Response:
        return await _answer(request, engine, api_keys, Endpoint.COMPLETIONS)

    async def models(request: Request) -> Response:
        authorize(request, api_keys)
        info = engine.info
        model = {"id": info.name, "object": "model", "created": started, "owned_by": "pipesd"}
        return _json({"object": "list", "data": [model | {"max_model_len": info.max_context}]})

    async def info(request: Request) -> Response:
        authorize(request, api_keys)
        return _json(
            {
                "model": engine.info.name,
                "fingerprint": engine.info.fingerprint.hex(),
                "n_vocab": engine.info.n_vocab,
                "max_context": engine.info.max_context,
                "max_drafts": engine.info.max_drafts,
                "protocol": SUBPROTOCOL,
            }
        )

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    app.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    app.add_route("/v1/completions", completions, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/pipesd/info", info, methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    return app


def authorize(connection: HTTPConnection, api_keys: frozenset[str]) -> None:
    """Check the key of a request or of a WebSocket handshake. Raises Unauthorized. No `api_keys`: all may pass."""
    if not api_keys:
        return
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("no API key: send it as `Authorization: Bearer KEY`")
    matches = [hmac.compare_digest(key.encode(), given.strip().encode()) for key in api_keys]
    if not any(matches):
        raise Unauthorized("the API key is not one of this server's")


async def _answer(request: Request, engine: Engine, api_keys: frozenset[str], endpoint: Endpoint) -> Response:
    authorize(request, api_keys)
    body = await _read_body(request)
    answer = Alone(engine)
    handed_over = False
    try:
        opening = await _while_connected(request, answer.open(endpoint, body))
        headers = {"x-pipesd-seed": str(opening.params.seed)}
        if _wants_stream(body):
            handed_over = True
            return _Stream(answer, headers)
        payload = await _while_connected(request, answer.next())
        if payload is None:
            raise EngineFailed("the engine ended without an answer")
        return Response(payload.data, media_type="application/json", headers=headers)
    finally:
        if not handed_over:
            answer.abort()


class _Stream(EventSourceResponse):
    """The payloads of an answer as server-sent events. Lets go of the answer however the response ends."""

    def __init__(self, answer: Alone, headers: dict[str, str]) -> None:
        super().__init__(
            _events(answer), headers=headers, sep="\n", send_timeout=SEND_TIMEOUT_S, shutdown_grace_period=FAREWELL_S
        )
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.abort()


async def _events(answer: Alone) -> AsyncIterator[bytes]:
    try:
        while (payload := await answer.next()) is not None:
            yield b"data: " + payload.data + b"\n\n"
    except ApiError as error:
        yield b"data: " + msgspec.json.encode(error.body()) + b"\n\n"
        return
    yield b"data: [DONE]\n\n"


class _Peek(Struct):
    stream: bool | None = None


def _wants_stream(body: bytes) -> bool:
    """Of a body that the engine has accepted."""
    return bool(msgspec.json.decode(body, type=_Peek).stream)


async def _read_body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise BodyTooLarge(f"the body is larger than the limit of {MAX_BODY_BYTES} bytes")
                parts.append(part)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    except ClientDisconnect:
        raise _ClientGone from None
    return b"".join(parts)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. The body has been read before."""
    task, watch = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _ClientGone
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _RequestId:
    """Gives every response an `x-request-id`: the client's own if it is sensible, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        sensible = 0 < len(given) <= 128 and all(0x21 <= byte <= 0x7E for byte in given)
        request_id = given if sensible else f"req_{uuid.uuid4().hex}".encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.body(), error.status, error.headers())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:128]}"
    wrong: ApiError
    if error.status_code == 404:
        wrong = NoSuchRoute(f"there is no {what}; the API is under /v1, such as POST /v1/chat/completions")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        wrong = WrongMethod(f"{what} does not exist; use {allowed}")
    else:
        wrong = InvalidRequest(str(error.detail))
    return _json(wrong.body(), error.status_code, dict(error.headers or {}))


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nginx's "client closed request"; for the log, nobody reads it


async def _on_bug(_: Request, __: Exception) -> Response:
    """Starlette logs the exception after this."""
    return _json(EngineFailed("internal error; see the gateway's log").body(), 500)
