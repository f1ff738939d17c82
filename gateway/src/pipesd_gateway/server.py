"""The gateway's HTTP side: an OpenAI API with target-only answers, and what an agent asks before it connects.

`create_app` gives the app; `pipesd_gateway.ws.attach` adds the WebSocket route to it. Both check keys by `authorize`.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from pipesd_gateway import verify
from pipesd_gateway.alone import Alone
from pipesd_gateway.engine import Engine
from pipesd_gateway.exceptions import ApiError, EngineFailed, Unauthorized
from pipesd_gateway.http import (
    EventStream,
    error_event,
    install,
    json_response,
    read_body,
    wants_stream,
    while_connected,
)
from pipesd_gateway.protocol import SUBPROTOCOL, Endpoint
from pipesd_gateway.several import Several, wants_several


def create_app(engine: Engine, *, api_keys: frozenset[str] = frozenset()) -> FastAPI:
    """The app over `engine`, which stays the caller's to close. No `api_keys`: open to everybody."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    install(app)
    started = int(time.time())

    async def chat_completions(request: Request) -> Response:
        return await _answer(request, engine, api_keys, Endpoint.CHAT_COMPLETIONS)

    async def completions(request: Request) -> Response:
        return await _answer(request, engine, api_keys, Endpoint.COMPLETIONS)

    async def models(request: Request) -> Response:
        authorize(request, api_keys)
        info = engine.info
        model = {"id": info.name, "object": "model", "created": started, "owned_by": "pipesd"}
        return json_response({"object": "list", "data": [model | {"max_model_len": info.max_context}]})

    async def info(request: Request) -> Response:
        authorize(request, api_keys)
        return json_response(
            {
                "model": engine.info.name,
                "fingerprint": engine.info.fingerprint.hex(),
                "n_vocab": engine.info.n_vocab,
                "max_context": engine.info.max_context,
                "max_drafts": engine.info.max_drafts,
                "protocol": SUBPROTOCOL,
            }
        )

    async def verifications(request: Request) -> Response:
        authorize(request, api_keys)
        return await verify.respond(request, engine)

    async def health(_: Request) -> Response:
        return json_response({"status": "ok"})

    app.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    app.add_route("/v1/completions", completions, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/pipesd/info", info, methods=["GET"])
    app.add_route("/v1/pipesd/verify", verifications, methods=["POST"])
    app.add_route("/health", health, methods=["GET"])
    return app


def authorize(connection: HTTPConnection, api_keys: frozenset[str]) -> str | None:
    """The key of a request or of a WebSocket handshake. Raises Unauthorized. No `api_keys`: all may pass, None."""
    if not api_keys:
        return None
    given = bearer(connection)
    if given is None:
        raise Unauthorized("no API key: send it as `Authorization: Bearer KEY`")
    matches = [hmac.compare_digest(key.encode(), given.encode()) for key in api_keys]
    if not any(matches):
        raise Unauthorized("the API key is not one of this server's")
    return given


def bearer(connection: HTTPConnection) -> str | None:
    """The key that a request says it has."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    return given.strip() or None if scheme.lower() == "bearer" else None


async def _answer(request: Request, engine: Engine, api_keys: frozenset[str], endpoint: Endpoint) -> Response:
    authorize(request, api_keys)
    body = await read_body(request)
    answer = Several(engine) if wants_several(endpoint, body) else Alone(engine)
    handed_over = False
    try:
        opening = await while_connected(request, answer.open(endpoint, body))
        headers = {"x-pipesd-seed": str(opening.params.seed)}
        if wants_stream(body):
            handed_over = True
            return EventStream(_events(answer), answer.abort, headers)
        payload = await while_connected(request, answer.next())
        if payload is None:
            raise EngineFailed("the engine ended without an answer")
        return Response(payload.data, media_type="application/json", headers=headers)
    finally:
        if not handed_over:
            answer.abort()


async def _events(answer: Alone | Several) -> AsyncIterator[bytes]:
    try:
        while (payload := await answer.next()) is not None:
            yield b"data: " + payload.data + b"\n\n"
    except ApiError as error:
        yield error_event(error)
        return
    yield b"data: [DONE]\n\n"
