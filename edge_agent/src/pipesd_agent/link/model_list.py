"""The list of the gateway's models, cached so that `/v1/models` answers at once, also when the cloud is down.

The gateway is the one that the link is connected to, or else the first that answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final

import httpx

from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.network import DIRECT, Network

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
FRESH_S: Final = 60.0
"""Time between two refreshes."""
RETRY_S: Final = 5.0
"""Seconds between two attempts while no gateway has answered."""
MAX_LIST_BYTES: Final = 2**20


class ModelList:
    """The cached list, refreshed every `FRESH_S`, and when the link is connected to another gateway.

    The agent starts `run`, and cancels it.
    """

    def __init__(self, gateways: Gateways, api_key: str | None, network: Network | None) -> None:
        self._gateways = gateways
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._network = network or DIRECT
        self.models: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Refresh until cancelled."""
        async with self._network.http_client(timeout=TIMEOUT_S, headers=self._headers) as client:
            while True:
                self._gateways.current_changed.clear()
                known = await self._refresh(client)
                try:
                    async with asyncio.timeout(FRESH_S if known else RETRY_S):
                        await self._gateways.current_changed.wait()
                except TimeoutError:
                    pass

    async def _refresh(self, client: httpx.AsyncClient) -> bool:
        for gateway in self._gateways.in_request_order():
            if await self._ask(client, f"{gateway.address.http}/v1/models"):
                return True
        return False

    async def _ask(self, client: httpx.AsyncClient, url: str) -> bool:
        try:
            async with client.stream("GET", url) as answer:
                answer.raise_for_status()
                listed = json.loads(await _body(answer))["data"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.debug("model list: none from %s: %s", url, error)
            return False
        if isinstance(listed, list):
            self.models = [model for model in listed if isinstance(model, dict)]
        return True


async def _body(answer: httpx.Response) -> bytes:
    """The whole body. Raises ValueError for one that is too large for a list of models."""
    body = b""
    async for part in answer.aiter_bytes(65_536):
        body += part
        if len(body) > MAX_LIST_BYTES:
            raise ValueError(f"more than {MAX_LIST_BYTES} bytes")
    return body
