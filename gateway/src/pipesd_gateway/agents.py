"""The agents of a server: their WebSocket route, admission of their sessions, and the drain when the server ends."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from pipesd_core.engine.interface import Engine
from pipesd_core.errors import ApiError, InvalidRequest
from pipesd_core.protocol.messages import SUBPROTOCOL
from pipesd_core.protocol.websocket import INSTANCE_HEADER
from pipesd_core.service import logs
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_gateway.agent_socket import AgentSocket, HostedRequest
from pipesd_gateway.limits import SessionLimits
from pipesd_gateway.quota import Quota
from pipesd_gateway.registry import Registry

log = logging.getLogger(__name__)

RETURN_S: Final = 15.0
"""Longest time that a drain waits for a session whose link is lost: the agent notices the loss within 9 s."""
RESTART_S: Final = 2.0
"""When the server ends: time for the agents to take what is left for them."""

Authorize = Callable[[WebSocket], str | None]
"""The API key that a connection came with, None where the server has no keys. Raises `Unauthorized`."""


def attach(
    app: Starlette,
    engine: Engine,
    limits: SessionLimits,
    authorize: Authorize,
    quota: Quota,
    lifecycle: Lifecycle | None = None,
) -> Registry:
    """Add the agents' WebSocket, `/v1/pipesd/ws`, to an application: our own, or vLLM's (a FastAPI is a Starlette).

    `lifecycle` announces the end of the server. Returns the registry of its sessions.
    """
    agents = Agents(engine, limits, authorize, quota, lifecycle or Lifecycle())

    logs.drop_refusals()
    app.router.add_websocket_route("/v1/pipesd/ws", agents.serve)
    return agents.registry


class Agents:
    """All agents of a server. The `Host` of its `Lifecycle`."""

    def __init__(
        self, engine: Engine, limits: SessionLimits, authorize: Authorize, quota: Quota, lifecycle: Lifecycle
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._authorize = authorize
        self._quota = quota
        self._lifecycle = lifecycle
        self.registry = Registry()
        self._hosted: dict[bytes, HostedRequest] = {}
        self._sockets: dict[AgentSocket, asyncio.Task[None]] = {}
        self._refusals = logs.Changes()
        """By the hosts of agents: those that are refused try again."""
        self._drain_began = math.inf
        self._drain_until = math.inf
        self._ended = False
        self._instance = (INSTANCE_HEADER.encode(), secrets.token_hex(8).encode())
        lifecycle.host = self

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one agent, from its handshake to its end."""
        host = websocket.client.host if websocket.client is not None else "?"
        with ExitStack() as stack:
            try:
                share = self._quota.share(self._authorize(websocket))
                _check_subprotocol(websocket)
                if not (self._lifecycle.draining and self.registry.has(share.owner)):  # it may want to resume
                    self._lifecycle.admit()
                stack.enter_context(share.connection())
            except ApiError as error:
                if self._refusals.new("refused", f"{host} {error}"):  # several agents may be behind one host
                    log.warning("an agent at %s is refused: %s", host, error)
                await websocket.send_denial_response(JSONResponse(error.body(), error.status, headers=error.headers()))
                return
            self._refusals.forget(f"{host} ")
            await websocket.accept(subprotocol=SUBPROTOCOL, headers=[self._instance])
            socket = AgentSocket(websocket, self._engine, self._limits, share, self._admit, self.registry, self._hosted)
            task = asyncio.current_task()
            assert task is not None
            self._sockets[socket] = task
            try:
                if self._ended:  # while it was accepted
                    socket.restart()
                if math.isfinite(self._drain_until):
                    socket.drain(self._drain_until - time.monotonic())
                await socket.serve()
            finally:
                del self._sockets[socket]

    def _admit(self, websocket: WebSocket) -> None:
        """Admit a new session of a connection, whose key may have been removed. Raises ApiError."""
        self._authorize(websocket)
        self._lifecycle.admit()

    def sessions(self) -> int:
        """Number of sessions that a drain waits for; not those of lost agents that do not come back. See `Host`."""
        since = time.monotonic() - RETURN_S
        gone = sum(hosted.lost_before(since) for hosted in self._hosted.values()) if since > self._drain_began else 0
        return self._quota.taken - gone

    def drain(self, deadline_s: float) -> None:
        """Announce the end of the server to every agent; see `Host`."""
        self._drain_began = time.monotonic()
        self._drain_until = self._drain_began + deadline_s
        for socket in self._sockets:
            socket.drain(deadline_s)

    def hang_up(self) -> None:
        """Close every link; see `Host`. No session is reported as failed: its agent may finish it elsewhere."""
        self._ended = True
        for socket in list(self._sockets):
            socket.restart()

    async def aclose(self) -> None:
        """`hang_up`, and give the agents time to hear of it; see `Host`."""
        tasks = list(self._sockets.values())
        self.hang_up()
        if tasks:
            await asyncio.wait(tasks, timeout=RESTART_S)


def _check_subprotocol(websocket: WebSocket) -> None:
    if SUBPROTOCOL not in websocket.scope["subprotocols"]:
        offered = ", ".join(websocket.scope["subprotocols"])[:128] or "none"
        raise InvalidRequest(
            f"this gateway speaks the WebSocket subprotocol {SUBPROTOCOL}; the client offered {offered}"
        )
