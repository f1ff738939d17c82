"""The agent's OpenAI API on localhost: requests are drafted for here and decided by the target, over the link.

Those that cannot be drafted for go to the gateway's own OpenAI API instead.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from pipesd_agent.agent import Agent
from pipesd_agent.answer import Answer
from pipesd_agent.api import metrics as agent_metrics
from pipesd_agent.api.eligibility import why_ineligible
from pipesd_agent.api.metrics import AgentRequests, families_of, mode_of
from pipesd_agent.link.passthrough import ForwardedRequest, PassthroughAnswer
from pipesd_agent.local.answer import MODE_HEADER
from pipesd_agent.local.fallback import FALLBACK_HEADER
from pipesd_core import answer_format
from pipesd_core.answer_format import error_event
from pipesd_core.errors import ApiError, InvalidRequest, Unavailable
from pipesd_core.openai_body import may_stream, with_seed
from pipesd_core.openai_parameters import (
    IGNORED_HEADER,
    UnknownParameters,
    drop_unknown,
    ignored_header,
    ignored_list,
)
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.sampling.sampler import draw_seed
from pipesd_core.service.api_keys import Keys
from pipesd_core.service.exposition import CONTENT_TYPE, render
from pipesd_core.service.hosts import HostNames
from pipesd_core.service.http import (
    ClientGone,
    EventStream,
    NoSuchRoute,
    install,
    json_response,
    read_body,
    request_id_of,
    while_connected,
)
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.model_routes import add_model_routes
from pipesd_core.service.openapi import add_description
from pipesd_core.service.queued_stream import QUEUED, Beginning
from pipesd_core.service.request_metrics import RequestTimer
from pipesd_core.translation.parameters import own_names

log = logging.getLogger(__name__)

_HAS_CHOICE: Final = re.compile(rb'"choices":\s*\[\s*\{|"delta":')
"""In events that bring a piece of the answer; in none with the usage alone. Within a text its quotes are escaped."""
_HAS_ERROR: Final = re.compile(rb'^data: \{"error"|^event: error$', re.MULTILINE)
_IS_DONE: Final = re.compile(
    rb"^(data: \[DONE\]|event: (message_stop|response\.(completed|incomplete|failed))\ndata: .*)\n\n\Z", re.MULTILINE
)

GATEWAYS_OWN: Final = (
    "/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/v2/embed",
)  # fmt: skip
"""Routes of a vLLM server that are not below /v1 and belong to its API; what operates a server is none of them."""


class NoSuchRecord(InvalidRequest):
    status = 404


def create_app(
    agent: Agent,
    *,
    keys: Keys | None = None,
    lifecycle: Lifecycle | None = None,
    cors_origins: tuple[str, ...] = (),
    hosts: HostNames | None = None,
    unknown_parameters: UnknownParameters = "refuse",
) -> Starlette:
    """Make the app of an agent, whose tasks run as long as the app does.

    No `keys`: anybody may use it. No `hosts`: it answers to any name. unknown_parameters: "refuse" leaves it to whoever
    answers to refuse them.
    """
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
    install(app, lifecycle, cors_origins, hosts)
    started = time.monotonic()
    requests = AgentRequests()

    def answers(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            keys.authorize(request)
            return await _answer(request, agent, requests, endpoint, unknown_parameters)

        return answer

    async def gateways_own(request: Request) -> Response:
        keys.authorize(request)
        for route in app.routes:  # a route of this agent's own, with another method
            if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(route.methods or ()))})
        return await _forward(request, agent, requests)

    def models() -> list[dict[str, Any]]:
        return agent.models

    async def health(_: Request) -> Response:
        drafter: dict[str, Any] | None = None
        if agent.worker is not None:
            worker = agent.worker
            drafter = {"capacity": worker.capacity, "max_context": worker.max_context, "free": worker.lanes_free}
            if worker.broken is not None:
                drafter["broken"] = worker.broken
        uptime = int(time.monotonic() - started)
        load = {"sessions": agent.link.requests, "requests": lifecycle.requests, "tasks": len(asyncio.all_tasks())}
        state = {
            "status": "ok",
            "gateway": agent.link.state,
            "drafter": drafter,
            "drafting": agent.drafting.report(),
            "uptime_s": uptime,
            "load": load,
        }
        if faults := agent.tasks.faults:
            state["down"] = faults
        if agent.local_only:
            return json_response(state | {"mode": "edge", "gateway": None, "gateways": []})
        figures = agent.figures()
        if (mode := mode_of(figures)) is not None:
            state |= {"mode": mode, "mode_reason": figures.mode_reason}
        return json_response(state | {"gateways": agent.link.gateways.report(time.monotonic())})

    async def ready(_: Request) -> Response:
        lifecycle.admit()
        agent.tasks.check()
        if not (agent.link.connected or agent.local_only):
            raise Unavailable(f"no link to the gateway: {agent.link.state}")
        return json_response({"status": "ready"})

    async def metrics(_: Request) -> Response:
        # In a thread: the first scrape loads a package, and no token waits for that.
        families = families_of(agent.figures(), requests)
        return Response(await asyncio.to_thread(render, families), media_type=CONTENT_TYPE)

    async def record(request: Request) -> Response:
        keys.authorize(request)
        request_id = request.path_params["request_id"]
        found = agent.records.get(request_id)
        if found is None:
            raise NoSuchRecord(f"no request {request_id[:128]!r} is running or remembered; the last few are")
        return json_response(found)

    for endpoint, path in answer_format.PATHS.items():
        app.add_route(path, answers(endpoint), methods=["POST"])
    add_model_routes(app, keys, models)
    app.add_route("/v1/pipesd/requests/{request_id}", record, methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    app.add_route("/ready", ready, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
    for path in ("/v1/messages/count_tokens", *GATEWAYS_OWN):
        app.add_route(path, gateways_own, methods=["POST"])
    app.add_route("/version", gateways_own, methods=["GET"])
    add_description(app, "pipesd_agent")
    app.add_route("/v1/{path:path}", gateways_own, methods=["GET", "POST", "DELETE"])  # after all others below /v1
    return app


async def _answer(
    request: Request,
    agent: Agent,
    requests: AgentRequests,
    endpoint: Endpoint,
    unknown_parameters: UnknownParameters,
) -> Response:
    body, ignored = await read_body(request), ""
    if unknown_parameters == "ignore":
        body, names = drop_unknown(body, own_names(endpoint))
        ignored = ignored_list(names)
    request_id = request_id_of(request)
    fallback = agent.fallback_for(request.headers.get(FALLBACK_HEADER))
    route: agent_metrics.Route = "edge" if agent.local_only else "session"
    queued = asyncio.Event()
    headers: dict[str, str] = {}
    if not agent.local_only and (reason := why_ineligible(endpoint, body)) is not None:
        log.info("request %s is served cloud-only: %s", request_id, reason)
        work = agent.pass_through(endpoint, body, request_id, fallback, reason=reason)
        route = "passthrough"  # the gateway has its own way with streams that wait
    elif may_stream(body):
        body, seed = with_seed(body, draw_seed)
        headers = {} if seed is None else {"x-pipesd-seed": str(seed)}
        work = agent.answer(endpoint, body, request_id, fallback)
        queued.set()
    else:
        work = agent.answer(endpoint, body, request_id, fallback)
    timer = requests.of(route).arrived(time.monotonic())
    beginning = Beginning(work)
    handed_over = False
    with _timed(timer):
        try:
            await beginning.reached(request, queued)
            if not beginning.done:
                handed_over = True
                headers |= (MODE_HEADER if agent.local_only else {}) | ignored_header(ignored)
                return AnswerStream(endpoint, beginning, timer, headers)
            answer = await beginning.result()
            if route != "passthrough":  # what comes from there is complete already, or may still be queued there
                timer.accepted(time.monotonic())
            if answer.streams:
                handed_over = True
                return AnswerStream(endpoint, beginning, timer, _headers(answer, ignored))
            payload = await while_connected(request, answer.next())
            if payload is None:
                raise Unavailable("the gateway ended the request without an answer; try again")
            timer.finish("completed" if answer.status == 200 else "failed", time.monotonic())
            # The rest of the session (its end) is on its way; a client that has its answer need not wait for it.
            return Response(payload, answer.status, _headers(answer, ignored), media_type="application/json")
        finally:
            if not handed_over:
                await _release(beginning)


async def _forward(request: Request, agent: Agent, requests: AgentRequests) -> Response:
    """The gateway's answer to a request of a route that is its own."""
    path: str = request.scope["path"]
    target = request.scope["raw_path"].decode("latin-1")
    if query := request.scope["query_string"].decode("latin-1"):
        target += f"?{query}"
    # What others on the way to the gateway might read as another path; a client has no reason to write it.
    if path.startswith("/v1/pipesd/") or "#" in target or any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise NoSuchRoute(f"there is no {request.method} {path[:128]}")
    body = await read_body(request)
    content_type = request.headers.get("content-type", "")
    if not content_type.isascii():
        raise InvalidRequest("the header Content-Type has characters that are not ASCII")
    method = "GET" if request.method == "HEAD" else request.method
    forwarded = ForwardedRequest(method, target, body, content_type, any_success=True)
    timer = requests.of("passthrough").arrived(time.monotonic())
    beginning: Beginning[Answer] = Beginning(agent.forward(forwarded, request_id_of(request)))
    handed_over = False
    with _timed(timer):
        try:
            answer = await while_connected(request, beginning.result())
            if answer.streams:
                handed_over = True
                return AnswerStream(Endpoint.CHAT_COMPLETIONS, beginning, timer, answer.headers)
            payload = await while_connected(request, answer.next())
            timer.finish("completed" if answer.status < 300 else "failed", time.monotonic())
            return Response(payload, answer.status, answer.headers)
        finally:
            if not handed_over:
                await _release(beginning)


def _headers(answer: Answer, ignored: str) -> dict[str, str]:
    """The headers of an answer; `ignored`: list of the parameters that were not passed on."""
    return answer.headers | ignored_header(ignored, answer.headers.get(IGNORED_HEADER, ""))


@contextmanager
def _timed(timer: RequestTimer) -> Iterator[None]:
    """Note the end of a request that an exception is."""
    try:
        yield
    except (ClientGone, asyncio.CancelledError):
        timer.finish("aborted", time.monotonic())
        raise
    except BaseException:
        timer.finish("failed", time.monotonic())
        raise


class AnswerStream(EventStream):
    """An answer's events; closes the answer however the response ends."""

    def __init__(
        self, endpoint: Endpoint, beginning: Beginning[Answer], timer: RequestTimer, headers: dict[str, str]
    ) -> None:
        super().__init__(
            _events(endpoint, beginning, timer),
            lambda: timer.finish("aborted", time.monotonic()),  # unless it has finished before
            headers,
        )
        self._beginning = beginning

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _release(self._beginning)


async def _release(beginning: Beginning[Answer]) -> None:
    """Take a request back that still waits, and close an answer that has begun."""
    answer = await beginning.unwanted()
    if answer is not None:
        await answer.aclose()


async def _events(endpoint: Endpoint, beginning: Beginning[Answer], timer: RequestTimer) -> AsyncIterator[bytes]:
    last = b""
    try:
        if beginning.done:
            answer = await beginning.result()
        else:
            yield QUEUED
            answer = await beginning.result()
            if (late := answer.headers.get(IGNORED_HEADER)) is not None:  # the headers have left without the gateway's
                yield f": {IGNORED_HEADER}: {late}\n\n".encode("latin-1")
        if not isinstance(answer, PassthroughAnswer):
            timer.accepted(time.monotonic())
        while (events := await answer.next()) is not None:
            _note(events, answer, timer)
            last = events
            yield events
            answer.taken()
    except ApiError as error:
        timer.finish("failed", time.monotonic())
        yield error_event(endpoint, error, last)
        return
    timer.finish("completed", time.monotonic())


def _note(events: bytes, answer: Answer, timer: RequestTimer) -> None:
    if _HAS_CHOICE.search(events):
        timer.accepted(time.monotonic())
        timer.output(answer.output_tokens, time.monotonic())
    if _HAS_ERROR.search(events):
        timer.finish("failed", time.monotonic())
    elif _IS_DONE.search(events):  # whoever has seen that may hang up
        timer.finish("completed", time.monotonic())
