"""`pipesd_core.engine.interface.Engine` over a vLLM server that runs in this process and the ones it has spawned."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from pipesd_core.engine.interface import Deliver, ModelInfo
from pipesd_core.errors import Unavailable
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.logs import Changes
from pipesd_core.service.tasks import Tasks
from pipesd_vllm.compat.core import Core
from pipesd_vllm.compat.serving import Serving
from pipesd_vllm.generation import VllmGeneration
from pipesd_vllm.metrics import PluginMetrics
from pipesd_vllm.rpc_coalescer import RpcCoalescer

log = logging.getLogger(__name__)

STATS_PERIOD_S: Final = 1.0
"""Oldest age of the scheduler's figures in /metrics while there are sessions."""


class VllmEngine:
    """Engine over vLLM. It has routes before it has an engine: until `start` every request gets a 503.

    Args:
        metrics: gets the scheduler's figures.
    """

    def __init__(self, metrics: PluginMetrics) -> None:
        self._serving: Serving | None = None
        self._core: Core | None = None
        self._coalescer: RpcCoalescer | None = None
        self._metrics = metrics
        self._live: set[VllmGeneration] = set()
        self._busy = asyncio.Event()
        self._tasks = Tasks()
        self._closed = False

    def start(self, serving: Serving, core: Core) -> None:
        """Start serving: vLLM's engine is there."""
        self._serving = serving
        self._core = core
        self._coalescer = RpcCoalescer(core.verify)
        self._tasks.start("scheduler figures", lambda: self._watch_scheduler(core))

    @property
    def info(self) -> ModelInfo:
        return self._started().info

    async def stats(self) -> dict[str, int]:
        """The scheduler's figures, see `ParkingScheduler.pipesd_stats`."""
        self._started()
        assert self._core is not None
        return await self._core.stats()

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> VllmGeneration:
        """Open a request; see `Engine.open`. vLLM's own queue holds what does not run yet."""
        if self._closed:
            raise _shutting_down()
        serving = self._started()
        assert self._coalescer is not None
        generation = VllmGeneration(serving, self._coalescer, deliver, self._live.discard)
        self._live.add(generation)
        self._busy.set()
        await generation.open(endpoint, body)
        return generation

    async def aclose(self) -> None:
        """Close the engine; see `Engine.aclose`."""
        self._closed = True
        await self._tasks.aclose()
        for generation in list(self._live):
            generation.fail(_shutting_down())

    async def _watch_scheduler(self, core: Core) -> None:
        failures = Changes()
        while True:
            await self._busy.wait()
            if not self._live:
                self._busy.clear()  # update the figures once more below: all are 0 now
            try:
                self._metrics.scheduler = await core.stats()
                failures.new("")
            except Unavailable as error:
                if failures.new(str(error)):
                    log.warning("scheduler figures not updated: %s", error)
            await asyncio.sleep(STATS_PERIOD_S)

    def _started(self) -> Serving:
        if self._serving is None:
            raise Unavailable("the engine is starting; try again")
        return self._serving


def _shutting_down() -> Unavailable:
    return Unavailable("the server is shutting down; try again later")
