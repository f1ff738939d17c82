"""The `vllm.endpoint_plugins` entry point: the agents' WebSocket and what an agent asks before it connects.

Everything is below /v1, so that vLLM's `--api-key` covers it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from prometheus_client import REGISTRY

from pipesd_core.errors import ApiError, ConfigError
from pipesd_core.service.api_keys import bearer
from pipesd_core.service.http import json_response
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_gateway import agents, verify_api
from pipesd_gateway.info_api import info_body
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota
from pipesd_vllm.compat.core import Core
from pipesd_vllm.compat.ending import Ending, answer_for_the_dead
from pipesd_vllm.compat.server import keep_alive
from pipesd_vllm.compat.serving import Serving
from pipesd_vllm.engine import VllmEngine
from pipesd_vllm.limits import GRACE, SESSIONS
from pipesd_vllm.metrics import PluginMetrics

log = logging.getLogger(__name__)

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class PipesdEndpoint:
    """Endpoint plugin: vLLM makes one, attaches its routes, and starts it when the engine is there."""

    name = "pipesd_endpoint"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        metrics = PluginMetrics()
        REGISTRY.register(metrics)
        self._engine = VllmEngine(metrics, self._engine_gone)
        self._sessions_engine = metrics.gateway.measure(self._engine, "agent")
        self._verify_engine = metrics.gateway.measure(self._engine, "verify")
        self._quota = Quota(SESSIONS.of(os.environ))
        self._lifecycle = Lifecycle()
        self._has_keys = False

    def attach_router(self, app: FastAPI) -> None:
        app.router.lifespan_context = self._closing(app.router.lifespan_context)
        limits = SessionLimits(grace_s=GRACE.of(os.environ))
        app.add_exception_handler(ApiError, _error_response)
        answer_for_the_dead(app)
        agents.attach(app, self._sessions_engine, limits, self._key, self._quota, self._lifecycle)
        app.add_api_route("/v1/pipesd/info", self._info, methods=["GET"])
        app.add_api_route("/v1/pipesd/verify", self._verify, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        if getattr(args, "stream_interval", 1) != 1:
            raise ConfigError(f"--stream-interval must be 1 with pipesd-vllm, but is {args.stream_interval}")
        self._has_keys = any(args.api_key or (os.environ.get("VLLM_API_KEY"),))
        if (getattr(args, "api_server_count", None) or 1) != 1:
            raise ConfigError(f"--api-server-count must be 1 with pipesd-vllm, but is {args.api_server_count}")
        core = Core(engine_client)
        await core.stats()  # fails now, and not in the first session, if the scheduler is not ours
        Ending(engine_client, self._drain)
        self._engine.start(Serving(engine_client, state), core)

    async def _drain(self, seconds: float) -> None:
        """Before vLLM stops its engine: sessions may move or end within `seconds`, then their agents are sent away.

        Nobody is told that its session failed: its agent asks for the rest elsewhere, or here after a restart.
        """
        self._lifecycle.draining = True
        if seconds:
            log.info("draining the agents for at most %g s", seconds)
            self._lifecycle.drain(seconds)
            until = time.monotonic() + seconds
            while not self._lifecycle.idle and time.monotonic() < until:  # noqa: ASYNC110  as the embedded gateway does
                await asyncio.sleep(0.1)
        await self._lifecycle.aclose()
        await self._engine.aclose()

    def _engine_gone(self) -> None:
        self._lifecycle.draining = True
        self._lifecycle.hang_up()

    def _closing(self, of_vllm: Lifespan) -> Lifespan:
        """vLLM's own lifespan, with our keepalive, and the end of every session with it."""

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any] | None]:
            keep_alive(app.state)
            async with of_vllm(app) as state:
                try:
                    yield state
                finally:
                    await self._lifecycle.aclose()
                    await self._engine.aclose()

        return lifespan

    def _key(self, websocket: WebSocket) -> str | None:
        """The API key of a connection, which vLLM has checked; None where vLLM has no keys."""
        return bearer(websocket) if self._has_keys else None

    async def _verify(self, request: Request) -> Response:
        self._lifecycle.admit()
        return await verify_api.respond(request, self._verify_engine)

    async def _info(self) -> Any:
        return json_response(info_body(self._engine.info) | {"engine": await self._engine.stats()})


def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body(), error.status, error.headers())
