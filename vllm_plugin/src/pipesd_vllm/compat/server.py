"""vLLM's uvicorn server, whose keepalive no flag of vLLM's sets: by itself it finds a dead agent after 40 s."""

from __future__ import annotations

import logging
from typing import Any

from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S
from pipesd_core.service.limits import KeptAlive

log = logging.getLogger(__name__)


def keep_alive(state: Any) -> None:
    """Ping agents as our own gateway does. Before the server listens: each connection asks the configuration.

    Args:
        state: the application's, where vLLM's launcher leaves its server.
    """
    config = getattr(getattr(state, "server", None), "config", None)
    if config is None:
        log.warning("vLLM's server is not where it was: dead agents are found after 40 s, not 12")
        return
    config.ws_ping_interval, config.ws_ping_timeout = PING_INTERVAL_S, PING_TIMEOUT_S
    config.ws_protocol_class = KeptAlive
