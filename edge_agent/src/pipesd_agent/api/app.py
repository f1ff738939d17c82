"""The agent's OpenAI API on localhost: requests go through the link, drafted here, decided by the target.

Those that cannot be drafted for go to the gateway's own OpenAI API instead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipesd_agent.agent import Agent
from pipesd_agent.api.eligibility import why_undraftable
from pipesd_agent.api.metrics import CONTENT_TYPE, exposition
from pipesd_agent.link.passthrough import Answer
from pipesd_agent.local.answer import EdgeAnswer
from pipesd_agent.local.fallback import HEADER, CloudAnswer
from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.openai_body import wants_stream
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.http import (
    EventStream,
    error_event,
    install,
    json_response,
    read_body,
    request_id_of,
    while_connected,
)
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.openapi import add_description

log = logging.getLogger(__name__)


class NoSuchRecord(InvalidRequest):
    status = 404


def create_app(
    agent: Agent, *, keys: Keys | None = None, lifecycle: Lifecycle | None = None, cors_origins: tuple[str, ...] = ()
) -> Starlette:
    """The app over an agent, whose tasks run as long as the app does. No `keys`: open to everybody."""
    keys = keys or Keys()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        agent.start()
        try:
            yield
        finally:
            await agent.aclose()

    app = Starlette(lifespan=lifespan)
    app.router.redirect_slashes = False
    lifecycle = lifecycle or Lifecycle()
    install(app, lifecycle, cors_origins)
    started = int(time.time())

    async def chat_completions(request: Request) -> Response:
        keys.authorize(request)
        return await _answer(request, agent, Endpoint.CHAT_COMPLETIONS)

    async def completions(request: Request) -> Response:
        keys.authorize(request)
        return await _answer(request, agent, Endpoint.COMPLETIONS)

    async def models(request: Request) -> Response:
        keys.authorize(request)
        return json_response({"object": "list", "data": agent.models})

    async def health(_: Request) -> Response:
        drafter: dict[str, Any] | None = None
        if agent.worker is not None:
            worker = agent.worker
            drafter = {"capacity": worker.capacity, "max_context": worker.max_context, "free": worker.lanes_free}
            if worker.broken is not None:
                drafter["broken"] = worker.broken
        uptime = int(time.time()) - started
        load = {"sessions": agent.link.requests, "requests": lifecycle.requests, "tasks": len(asyncio.all_tasks())}
        state = {"status": "ok", "gateway": agent.link.state, "drafter": drafter, "uptime_s": uptime, "load": load}
        if agent.edge_only:
            return json_response(state | {"mode": "edge", "gateway": None, "gateways": []})
        return json_response(state | {"gateways": agent.link.gateways.report(time.monotonic())})

    async def ready(_: Request) -> Response:
        lifecycle.admit()
        if not (agent.link.connected or agent.edge_only):
            raise Unavailable(f"no link to the gateway: {agent.link.state}")
        return json_response({"status": "ready"})

    async def metrics(_: Request) -> Response:
        # In a thread: the first scrape loads the package, and no token waits for that.
        return Response(await asyncio.to_thread(exposition, agent.figures()), media_type=CONTENT_TYPE)

    async def record(request: Request) -> Response:
        keys.authorize(request)
        request_id = request.path_params["request_id"]
        found = agent.records.get(request_id)
        if found is None:
            raise NoSuchRecord(f"no finished request {request_id[:128]!r} is remembered; the last few are")
        return json_response(found)

    app.add_route("/v1/chat/completions", chat_completions, methods=["POST"])
    app.add_route("/v1/completions", completions, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/pipesd/requests/{request_id}", record, methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    app.add_route("/ready", ready, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
    add_description(app, "pipesd_agent")
    return app


async def _answer(request: Request, agent: Agent, endpoint: Endpoint) -> Response:
    body = await read_body(request)
    request_id = request_id_of(request)
    edge = agent.edge_for(request.headers.get(HEADER))
    if not agent.edge_only and (why := why_undraftable(endpoint, body)) is not None:
        log.info("request %s is served cloud-only: %s", request_id, why)
        work: Coroutine[Any, Any, Answer | CloudAnswer | EdgeAnswer] = agent.forward(endpoint, body, request_id, edge)
    else:
        work = agent.answer(endpoint, body, request_id, edge)
    answer = await while_connected(request, work)
    if isinstance(answer, Answer):
        return _forwarded(answer)
    handed_over = False
    try:
        if wants_stream(body):
            handed_over = True
            return EventStream(
                _events(agent, answer, request_id), lambda: agent.done(answer, request_id), answer.headers
            )
        payload = await while_connected(request, answer.next())
        if payload is None:
            raise Unavailable("the gateway ended the request without an answer; try again")
        # The rest of the session (its end) is on its way; a client that has its answer need not wait for it.
        return Response(payload, media_type="application/json", headers=answer.headers)
    finally:
        if not handed_over:
            agent.done(answer, request_id)


def _forwarded(answer: Answer) -> Response:
    headers = {"x-pipesd-mode": "cloud", **answer.headers}
    if answer.body is None:
        return ForwardedStream(answer, headers)
    return Response(answer.body, answer.status, headers)


class ForwardedStream(EventStream):
    """Lets go of the gateway's answer however the response ends."""

    def __init__(self, answer: Answer, headers: dict[str, str]) -> None:
        super().__init__(answer.events(), lambda: None, headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.aclose()


async def _events(agent: Agent, answer: CloudAnswer | EdgeAnswer, request_id: str) -> AsyncIterator[bytes]:
    try:
        while (payload := await answer.next()) is not None:
            yield b"data: " + payload + b"\n\n"
            answer.taken()
    except ApiError as error:
        yield error_event(error)
        return
    agent.done(answer, request_id)  # before the last event: whoever has seen that may ask for the record
    yield b"data: [DONE]\n\n"
