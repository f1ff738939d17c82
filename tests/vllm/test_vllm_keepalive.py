"""An agent that is gone without a word is found as soon as by our own gateway, not after vLLM's 40 s."""

from __future__ import annotations

import asyncio
import time

import pytest
from vllm_server import KEY, VllmServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from pipesd_core.protocol.messages import SUBPROTOCOL
from pipesd_core.protocol.websocket import PING_INTERVAL_S, PING_TIMEOUT_S

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]


async def test_a_frozen_agent_is_let_go_of(server: VllmServer) -> None:
    url = server.root.replace("http", "ws") + "/v1/pipesd/ws"
    async with connect(
        url,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        additional_headers={"Authorization": f"Bearer {KEY}"},
        compression=None,
        ping_interval=None,
    ) as agent:
        agent.transport.pause_reading()
        await asyncio.sleep(PING_INTERVAL_S + PING_TIMEOUT_S + 3)
        agent.transport.resume_reading()
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(agent.recv(), 5)
        assert time.monotonic() - began < 3
    assert "not where it was" not in server.log.read_text()
