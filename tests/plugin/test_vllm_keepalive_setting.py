"""Without vLLM: what is set in the configuration of a uvicorn server that lies where vLLM's launcher leaves it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import uvicorn
from fastapi import FastAPI

from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S
from pipesd_core.service.limits import KeptAlive
from pipesd_vllm.compat.server import keep_alive


def test_agents_are_pinged_as_our_own_gateway_does() -> None:
    config = uvicorn.Config(FastAPI(), log_config=None)
    config.load()
    keep_alive(SimpleNamespace(server=uvicorn.Server(config)))
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (PING_INTERVAL_S, PING_TIMEOUT_S)
    assert config.ws_protocol_class is KeptAlive


def test_a_server_that_is_elsewhere_serves_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        keep_alive(SimpleNamespace())
    assert "not where it was" in caplog.text
