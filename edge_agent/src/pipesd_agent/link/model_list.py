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
from pipesd_core.service.logs import Changes

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0
FRESH_S: Final = 60.0
"""Time between two refreshes."""
RETRY_S: Final = 5.0
"""Seconds between the first two attempts while no gateway answers; doubled with each further one, up to `FRESH_S`."""
MAX_LIST_BYTES: Final = 2**20


class ModelList:
    """The cached list, refreshed every `FRESH_S`, and when the link is connected to another gateway.

    The agent starts `run`, and cancels it.
    """

    def __init__(self, gateways: Gateways, api_key: str | None, network: Network | None) -> None:
        self._gateways = gateways
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._network = network or DIRECT
        self._failures = Changes()
        self.models: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Refresh until cancelled."""
        async with self._network.http_client(timeout=TIMEOUT_S, headers=self._headers) as client:
            retry_s = RETRY_S
            while True:
                self._gateways.current_changed.clear()
                known = await self._refresh(client)
                try:
                    async with asyncio.timeout(FRESH_S if known else retry_s):
                        await self._gateways.current_changed.wait()
                    retry_s = RETRY_S
                except TimeoutError:
                    retry_s = RETRY_S if known else min(2 * retry_s, FRESH_S)

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
            self._failed(url, error)
            return False
        self._failures.new("", url)
        if isinstance(listed, list):
            self.models = [model for model in listed if isinstance(model, dict)]
        return True

    def _failed(self, url: str, error: Exception) -> None:
        """Log why there is no list, once, and only of the gateway that the link is connected to: it says the rest."""
        current = self._gateways.current
        if current is not None and url.startswith(f"{current.address.http}/"):
            why = f"{type(error).__name__}: {error}".partition("\n")[0]  # httpx appends a link
            if self._failures.new(why, url):
                log.warning("model list: none from %s: %s", url, why)


async def _body(answer: httpx.Response) -> bytes:
    """The whole body. Raises ValueError for one that is too large for a list of models."""
    body = b""
    async for part in answer.aiter_bytes(65_536):
        body += part
        if len(body) > MAX_LIST_BYTES:
            raise ValueError(f"more than {MAX_LIST_BYTES} bytes")
    return body
