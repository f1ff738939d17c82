"""HTTP server of a program: uvicorn with our settings and an orderly end. Its socket comes from `program.listen`."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Final

import uvicorn

from pipesd_core.protocol.messages import MAX_FRAME_BYTES
from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S
from pipesd_core.service import uvicorn_compat
from pipesd_core.service.lifecycle import Lifecycle
from pipesd_core.service.logs import library_level
from pipesd_core.service.settings import KEEP_ALIVE_S
from pipesd_core.service.standard_streams import OutputLost, write

log = logging.getLogger(__name__)

GRACE_S: Final = 5
"""At shutdown: longest wait for connections to end after all their requests were ended."""


class Server(uvicorn.Server):
    """uvicorn with our settings, and an orderly end.

    First the drain, then the agents' links are closed (they may find this server again, or another gateway), then
    `on_stop`, then connections are cut.

    Args:
        on_stop: ends every request that still runs, with an error.
        drain_timeout_s: after SIGTERM, longest wait for what `lifecycle` counts.
        keep_alive_s: after that an idle connection is closed.
    """

    def __init__(
        self,
        app: object,
        on_stop: Callable[[], Awaitable[None]],
        *,
        log_level: str = "info",
        tls: ssl.SSLContext | None = None,
        lifecycle: Lifecycle | None = None,
        drain_timeout_s: float = 0.0,
        keep_alive_s: int = KEEP_ALIVE_S,
    ) -> None:
        uvicorn_compat.check()
        # Imported here: `--help` and a person's chat need no web framework; and after the check.
        from pipesd_core.service.limits import (
            BoundedHttp,
            BoundedWebSocket,
            StalledWriters,
        )

        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_config=None,
                log_level=library_level(log_level),
                access_log=False,  # `http` has its own, with the request's id
                http=BoundedHttp,
                timeout_keep_alive=keep_alive_s,
                ws=BoundedWebSocket,
                ws_per_message_deflate=False,
                ws_max_size=MAX_FRAME_BYTES,
                ws_ping_interval=PING_INTERVAL_S,
                ws_ping_timeout=PING_TIMEOUT_S,
                timeout_graceful_shutdown=GRACE_S,
                server_header=False,
                workers=1,  # else uvicorn reads WEB_CONCURRENCY, which need not be a number
            )
        )
        self._on_stop = on_stop
        self._lifecycle = lifecycle or Lifecycle()
        self._drain_timeout_s = drain_timeout_s
        self._drain_until: float | None = None
        self._lingering = StalledWriters()
        self.config.load()
        self.config.ssl = tls

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM, which then count as dealt with."""
        # uvicorn raises the signals that stopped it once more when it is done; by then they have done their work.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await self.serve([listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.ssl else "http"
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            try:
                write(f"listening on {scheme}://{f'[{host}]' if ':' in host else host}:{port}/v1")
            except OutputLost as error:  # no reason to serve nobody
                log.warning("nobody is told where this listens, %s:%d: %s", host, port, error)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: SIGTERM drains; SIGINT, and a second SIGTERM, stop at once."""
        if sig == signal.SIGTERM and not self._lifecycle.draining:
            self._lifecycle.draining = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Decide whether to shut down. uvicorn calls this ten times a second."""
        if counter % 10 == 0:
            self._lingering.sweep(self.server_state.connections)
        if self._lifecycle.draining:
            if self._drain_until is None:
                self._drain_until = time.monotonic() + self._drain_timeout_s
                log.info("SIGTERM: draining for at most %g s", self._drain_timeout_s)
                self._lifecycle.drain(self._drain_timeout_s)
            self.should_exit = self.should_exit or self._lifecycle.idle or time.monotonic() >= self._drain_until
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._lifecycle.aclose()
        await self._on_stop()
        await super().shutdown(sockets)
