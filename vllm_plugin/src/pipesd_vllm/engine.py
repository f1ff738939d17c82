"""`pipesd_gateway.engine.Engine` over a vLLM server that runs in this process and the ones it has spawned."""

from __future__ import annotations

from pipesd_gateway.engine import Deliver, ModelInfo
from pipesd_gateway.exceptions import Unavailable
from pipesd_gateway.protocol import Endpoint
from pipesd_vllm.batcher import Batcher
from pipesd_vllm.compat.core import Core
from pipesd_vllm.compat.serving import Serving
from pipesd_vllm.generation import VllmGeneration
from pipesd_vllm.metrics import Metrics


class VllmEngine:
    """vLLM gives its routes before its engine; until `start` every request is told to try again."""

    def __init__(self) -> None:
        self._serving: Serving | None = None
        self._batcher: Batcher | None = None
        self._metrics = Metrics()
        self._live: set[VllmGeneration] = set()

    def start(self, serving: Serving, core: Core) -> None:
        """The engine is there."""
        self._serving = serving
        self._batcher = Batcher(core.verify)

    @property
    def info(self) -> ModelInfo:
        return self._started().info

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> VllmGeneration:
        """See `Engine.open`. vLLM's own queue holds what does not run yet."""
        serving = self._started()
        assert self._batcher is not None
        generation = VllmGeneration(serving, self._batcher, self._metrics, deliver, self._live.discard)
        self._live.add(generation)
        await generation.open(endpoint, body)
        self._metrics.session()
        return generation

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        for generation in list(self._live):
            generation.fail(Unavailable("the server is shutting down; try again later"))

    def _started(self) -> Serving:
        if self._serving is None:
            raise Unavailable("the engine is starting; try again")
        return self._serving
