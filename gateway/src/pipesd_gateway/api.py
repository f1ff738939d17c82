"""The gateway's HTTP API: OpenAI routes with target-only answers, and what an agent asks before it connects.

`create_app` gives the app; `pipesd_gateway.agents.attach` adds the WebSocket route to it. Both check keys by `Keys`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from pipesd_core import answer_format, sse
from pipesd_core.engine.autoregressive import TargetOnlyGeneration
from pipesd_core.engine.choices import MultiChoiceGeneration
from pipesd_core.engine.interface import Engine, Opening
from pipesd_core.engine.translated import prompt_length
from pipesd_core.errors import ApiError, EngineFailed
from pipesd_core.openai_body import has_multiple_choices, may_stream
from pipesd_core.openai_parameters import ignored_header
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.exposition import CONTENT_TYPE, render
from pipesd_core.service.hosts import HostNames
from pipesd_core.service.http import (
    EventStream,
    install,
    json_response,
    read_body,
    while_connected,
)
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.model_routes import add_model_routes
from pipesd_core.service.openapi import add_description
from pipesd_core.service.queued_stream import QUEUED, Beginning
from pipesd_core.service.tasks import Tasks
from pipesd_gateway import verify_api
from pipesd_gateway.info_api import info_body
from pipesd_gateway.metrics import GatewayMetrics


def create_app(
    engine: Engine,
    *,
    keys: Keys | None = None,
    lifecycle: Lifecycle | None = None,
    cors_origins: tuple[str, ...] = (),
    hosts: HostNames | None = None,
    load: Callable[[], Mapping[str, int]] = dict,
    metrics: GatewayMetrics | None = None,
    tasks: Tasks | None = None,
) -> Starlette:
    """Make the app over `engine`, which stays the caller's to close. No `keys`: open to all; no `hosts`: any name.

    load: figures for `/health` and `/metrics`: the sessions, requests and tasks of the moment. metrics: of the server,
    whose agents are measured by it too; None: of this API alone. tasks: what `/ready` names when
    it is down.
    """
    keys = keys or Keys()
    metrics = metrics or GatewayMetrics()
    tasks = tasks or Tasks()
    answering, verifying = metrics.measure(engine, "api"), metrics.measure(engine, "verify")
    app = Starlette()
    app.router.redirect_slashes = False
    lifecycle = lifecycle or Lifecycle()
    install(app, lifecycle, cors_origins, hosts)
    started = int(time.time())

    def answers(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await _answer(request, answering, keys, endpoint)

        return answer

    async def count_tokens(request: Request) -> Response:
        keys.authorize(request)
        return json_response({"input_tokens": await prompt_length(engine, await read_body(request))})

    def models() -> list[dict[str, Any]]:
        return [engine.info.entry(started)]

    async def info(request: Request) -> Response:
        keys.authorize(request)
        return json_response(info_body(engine.info))

    async def verifications(request: Request) -> Response:
        keys.authorize(request)
        return await verify_api.respond(request, verifying)

    async def health(_: Request) -> Response:
        down = {"down": faults} if (faults := tasks.faults) else {}
        return json_response({"status": "ok", "load": load()} | down)

    async def ready(_: Request) -> Response:
        lifecycle.admit()
        tasks.check()
        return json_response({"status": "ready"})

    async def scrape(_: Request) -> Response:
        # In a thread: the first one loads a package, and no token waits for that.
        return Response(await asyncio.to_thread(render, metrics.families(load())), media_type=CONTENT_TYPE)

    for endpoint, path in answer_format.PATHS.items():
        app.add_route(path, answers(endpoint), methods=["POST"])
    app.add_route("/v1/messages/count_tokens", count_tokens, methods=["POST"])
    add_model_routes(app, keys, models)
    app.add_route("/v1/pipesd/info", info, methods=["GET"])
    app.add_route("/v1/pipesd/verify", verifications, methods=["POST"])
    app.add_route("/health", health, methods=["GET"])
    app.add_route("/ready", ready, methods=["GET"])
    app.add_route("/metrics", scrape, methods=["GET"])
    add_description(app, "pipesd_gateway")
    return app


async def _answer(request: Request, engine: Engine, keys: Keys, endpoint: Endpoint) -> Response:
    keys.authorize(request)
    body = await read_body(request)
    make = MultiChoiceGeneration if has_multiple_choices(endpoint, body) else TargetOnlyGeneration
    openings: list[Opening] = []
    queued, streams = asyncio.Event(), may_stream(body)

    def on_queued(opening: Opening) -> None:
        openings.append(opening)
        if streams:
            queued.set()

    answer = make(engine, on_queued)
    beginning = Beginning(answer.open(endpoint, body))
    handed_over = False

    def abort() -> None:
        beginning.cancel()
        answer.abort()

    try:
        await beginning.reached(request, queued)
        opening = await beginning.result() if beginning.done else openings[0]
        headers = {"x-pipesd-seed": str(opening.params.seed)} | ignored_header(opening.ignored)
        if streams:
            handed_over = True
            return EventStream(_events(endpoint, answer, beginning), abort, headers)
        payload = await while_connected(request, answer.next())
        if payload is None:
            raise EngineFailed("the engine ended without an answer")
        return Response(sse.escaped(payload.data), media_type="application/json", headers=headers)
    finally:
        if not handed_over:
            abort()


async def _events(
    endpoint: Endpoint, answer: TargetOnlyGeneration | MultiChoiceGeneration, beginning: Beginning[Opening]
) -> AsyncIterator[bytes]:
    event = b""
    try:
        if not beginning.done:
            yield QUEUED
        await beginning.result()
        while (payload := await answer.next()) is not None:
            event = answer_format.event(endpoint, payload.data)
            yield event
    except ApiError as error:
        yield answer_format.error_event(endpoint, error, event)
        return
    if not answer_format.has_named_events(endpoint):
        yield answer_format.DONE
