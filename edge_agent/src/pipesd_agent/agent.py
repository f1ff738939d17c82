"""The parts of a running agent, put together from its configuration."""

from __future__ import annotations

import asyncio
import logging

from pipesd_agent.catalog import Catalog
from pipesd_agent.config import AgentConfig
from pipesd_agent.drafting.types import Drafter
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.forward import Forwarder
from pipesd_agent.link import Link
from pipesd_agent.records import Records
from pipesd_agent.session import RemoteError
from pipesd_agent.stream import RequestStream
from pipesd_agent.streams import LinkSettings
from pipesd_agent.tracing import TraceFiles
from pipesd_gateway.exceptions import VocabularyMismatch
from pipesd_gateway.logs import session_name
from pipesd_gateway.protocol import Endpoint, Opened

log = logging.getLogger(__name__)


class Agent:
    """Owns the link's and the catalog's tasks, the forwarder's connections and the drafter's thread.

    Args:
        cloud_on_mismatch: serve cloud-only when the drafter's vocabulary is not the target's, instead of refusing.
        traces: where finished requests are recorded.
    """

    def __init__(
        self,
        link: Link,
        catalog: Catalog,
        forwarder: Forwarder,
        worker: DraftWorker | None,
        *,
        cloud_on_mismatch: bool = False,
        traces: TraceFiles | None = None,
    ) -> None:
        self.link = link
        self.catalog = catalog
        self.forwarder = forwarder
        self.worker = worker
        self.records = Records()
        self._cloud_on_mismatch = cloud_on_mismatch
        self._traces = traces
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self.link.run()), asyncio.create_task(self.catalog.run())]
        for task in self._tasks:
            task.add_done_callback(_log_death)

    async def aclose(self) -> None:
        """Ends every running request with an error, then the drafter. Harmless when repeated."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.forwarder.aclose()
        if self.worker is not None:
            await self.worker.aclose()
        if self._traces is not None:
            await self._traces.aclose()

    async def open(self, endpoint: Endpoint, body: bytes, request_id: str) -> tuple[RequestStream, Opened]:
        """Have the gateway accept a request. Raises ApiError; cancelling takes the request back."""
        try:
            stream, opened = await self._open(endpoint, body, request_id, collaborative=True)
            name = session_name(opened.session)
            log.info("request %s is session %s", request_id, name, extra={"session": name})
            return stream, opened
        except RemoteError as error:
            if not self._cloud_on_mismatch or error.message != VocabularyMismatch.code:
                raise
        log.warning("request %s: the drafter's vocabulary is not the target's, served cloud-only", request_id)
        return await self._open(endpoint, body, request_id, collaborative=False)

    async def _open(
        self, endpoint: Endpoint, body: bytes, request_id: str, *, collaborative: bool
    ) -> tuple[RequestStream, Opened]:
        stream = await self.link.request(endpoint, body, request_id, collaborative=collaborative)
        if self._traces is not None and collaborative:
            stream.tracer = self._traces.begin()
        try:
            return stream, await stream.opened()
        except BaseException:
            self.finish(stream)
            raise

    def finish(self, stream: RequestStream) -> None:
        """The client has its answer, or is gone. Harmless when repeated."""
        stream.client_left()
        self.records.add(stream)
        if self._traces is not None:
            self._traces.add(stream)


def _log_death(task: asyncio.Task[None]) -> None:
    """The agent's tasks end by being cancelled only; anything else is a bug that somebody has to hear of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a task of the agent died", exc_info=error)


def make_agent(config: AgentConfig, drafter: Drafter | None = None) -> Agent:
    """An agent as configured, or with another drafter. Raises ModelLoadError, ConfigError."""
    traces = TraceFiles(config.trace) if config.trace else None
    tls = config.tls()
    settings = LinkSettings(config.socket_url, config.gateway_api_key, config.trigger, config.batcher, config.session)
    worker = None
    if config.mode != "cloud":
        worker = DraftWorker(drafter or _make_drafter(config))
    return Agent(
        Link(settings, worker, tls),
        Catalog(config.http_url, config.gateway_api_key, tls),
        Forwarder(config.http_url, config.gateway_api_key, tls),
        worker,
        cloud_on_mismatch=config.mode == "auto",
        traces=traces,
    )


def _make_drafter(config: AgentConfig) -> Drafter:
    if config.draft_model is None:
        from pipesd_agent.drafting.lookup import LookupDrafter

        return LookupDrafter(capacity=config.capacity, max_context=config.context)
    from pipesd_agent.drafting.llama import LlamaDrafter
    from pipesd_gateway.embedded.probe import check_model_runs

    check_model_runs(config.draft_model, gpu_layers=config.gpu_layers)
    return LlamaDrafter(
        config.draft_model,
        capacity=config.capacity,
        n_ctx_seq=config.context,
        threads=config.threads,
        gpu_layers=config.gpu_layers,
    )
