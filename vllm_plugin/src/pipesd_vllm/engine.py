"""`pipesd_core.engine.interface.Engine` over a vLLM server that runs in this process and the ones it has spawned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from pipesd_core.engine.interface import Deliver, ModelInfo
from pipesd_core.errors import ShuttingDown, Unavailable
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.logs import Changes
from pipesd_core.service.tasks import Tasks
from pipesd_vllm.compat.core import Core
from pipesd_vllm.compat.ending import EngineGone
from pipesd_vllm.compat.serving import Serving
from pipesd_vllm.generation import VllmGeneration
from pipesd_vllm.metrics import PluginMetrics
from pipesd_vllm.rpc_coalescer import RpcCoalescer

log = logging.getLogger(__name__)

STATS_PERIOD_S: Final = 1.0
"""Oldest age of the scheduler's figures in /metrics while there are sessions."""
LOOK_S: Final = 0.25
"""How often to look whether the engine core lives: parked sessions would notice with their next round only."""


class VllmEngine:
    """Engine over vLLM. It has routes before it has an engine: until `start` every request gets a 503.

    Args:
        metrics: gets the scheduler's figures.
        on_gone: called when vLLM's engine has stopped. It lets go of the generations that somebody else may finish; the
            others are told.
    """

    def __init__(self, metrics: PluginMetrics, on_gone: Callable[[], None]) -> None:
        self._serving: Serving | None = None
        self._core: Core | None = None
        self._coalescer: RpcCoalescer | None = None
        self._metrics = metrics
        self._on_gone = on_gone
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
        self._tasks.start("engine watch", lambda: self._watch_engine(core))

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
        assert self._core is not None
        generation = VllmGeneration(serving, self._coalescer, self._core.times, deliver, self._live.discard, self.gone)
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

    def gone(self) -> None:
        """Take note that vLLM's engine has stopped: nothing is begun any more. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        log.error("vLLM's engine has stopped: agents are told to go elsewhere")
        try:
            self._on_gone()
        finally:
            for generation in list(self._live):
                generation.fail(EngineGone())

    async def _watch_scheduler(self, core: Core) -> None:
        failures = Changes()
        while True:
            await self._busy.wait()
            if not self._live:
                self._busy.clear()  # update the figures once more below: all are 0 now
            try:
                self._metrics.scheduler = await core.stats()
                for generation in list(self._live):  # the engine core answers between two forward passes
                    generation.working()
                failures.new("")
            except EngineGone:
                pass  # said by `gone`
            except Unavailable as error:
                if failures.new(str(error)):
                    log.warning("scheduler figures not updated: %s", error)
            await asyncio.sleep(STATS_PERIOD_S)

    async def _watch_engine(self, core: Core) -> None:
        while True:  # vLLM has no event for it
            if core.gone:
                self.gone()
            await asyncio.sleep(LOOK_S)

    def _started(self) -> Serving:
        if self._serving is None:
            raise Unavailable("the engine is starting; try again")
        return self._serving


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the server is shutting down; try again later")
