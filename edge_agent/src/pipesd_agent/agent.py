"""The parts of a running agent, put together from its configuration."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipesd_agent.api.eligibility import with_noise
from pipesd_agent.api.metrics import ControlFigures
from pipesd_agent.config import AgentConfig
from pipesd_agent.control.mode import AutoMode, Switch
from pipesd_agent.drafting.drafter import Drafter
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.gateways import Gateways
from pipesd_agent.link.link import Link
from pipesd_agent.link.requests import LinkSettings
from pipesd_agent.local.answer import EdgeAnswer
from pipesd_agent.local.fallback import CloudAnswer, Policy, begin, is_loss, policy_of, said
from pipesd_agent.local.model import IDLE_S, Edge
from pipesd_agent.session.records import Records
from pipesd_agent.session.session import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry.tracing import TraceFiles
from pipesd_agent.tuning.background import Background
from pipesd_agent.tuning.optimizers import INSTALL, SAYS, OptimizerName, in_use
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.replay import Pair, Upload
from pipesd_agent.tuning.store import GoodPairs, state_file
from pipesd_agent.tuning.worker_process import Child
from pipesd_core.errors import ApiError, ModelLoadError, Unavailable, VocabularyMismatch
from pipesd_core.protocol.messages import Endpoint, Opened
from pipesd_core.service.logs import session_name

if TYPE_CHECKING:
    from pipesd_agent.control.controller import Controller
    from pipesd_agent.link.model_list import Catalog
    from pipesd_agent.link.passthrough import Answer, Forwarder
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

log = logging.getLogger(__name__)

KEEP_EVERY_S: Final = 60.0
UPLOADS: Final[dict[str, Upload]] = {
    "immediate": "immediate",
    "single": "single",
    "dp": "planned",
    "expected": "planned",
}
"""What the tuner has to know of each batcher."""


class Agent:
    """Owns the link's and the catalog's tasks, the forwarder's connections and the drafter's thread.

    Args:
        cloud_on_mismatch: serve cloud-only when the drafter's vocabulary is not the target's, instead of refusing.
        edge: the draft model alone; None: there is none. fallback: to it or not, where a request does not say.
        edge_only: never ask a gateway for anything.
        traces: where finished requests are recorded.
        controller: steers the link's sessions.
    """

    def __init__(
        self,
        link: Link,
        catalog: Catalog,
        forwarder: Forwarder,
        worker: DraftWorker | None,
        *,
        cloud_on_mismatch: bool = False,
        edge: Edge | None = None,
        fallback: Policy = "error",
        edge_only: bool = False,
        traces: TraceFiles | None = None,
        controller: Controller | None = None,
    ) -> None:
        if edge is None and (edge_only or fallback == "edge"):
            raise ValueError("there is no edge to fall back to")
        self.link = link
        self.catalog = catalog
        self.forwarder = forwarder
        self.worker = worker
        self.edge = edge
        self.edge_only = edge_only
        self.records = Records()
        self.requests = 0
        """Since the start, of whatever kind."""
        self._controller = controller
        self._fallback: Policy = fallback
        self._cloud_on_mismatch = cloud_on_mismatch
        self._traces = traces
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def models(self) -> list[dict[str, Any]]:
        """What `/v1/models` lists."""
        return self.edge.listing if self.edge is not None and self.edge_only else self.catalog.models

    def start(self) -> None:
        if self.edge_only:
            return
        self._tasks = [asyncio.create_task(self.link.run()), asyncio.create_task(self.catalog.run())]
        if self._controller is not None and self._controller.tuners is not None:
            self._tasks.append(asyncio.create_task(_keep(self._controller.tuners)))
        for task in self._tasks:
            task.add_done_callback(_log_death)

    async def aclose(self) -> None:
        """Ends every running request with an error, then the drafter. Harmless when repeated."""
        if self.edge is not None:
            self.edge.closed = True  # an agent that stops is no lost cloud
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.forwarder.aclose()
        if self.worker is not None:
            await self.worker.aclose()
        if self.edge is not None:
            await self.edge.aclose()
        if self._traces is not None:
            await self._traces.aclose()

    def figures(self) -> ControlFigures:
        """What `/metrics` shows."""
        figures = ControlFigures() if self._controller is None else self._controller.figures()
        return replace(figures, requests=self.requests, running=self.link.requests)

    def edge_for(self, header: str | None) -> Edge | None:
        """What answers a request with this `x-pipesd-fallback` when the cloud is gone. Raises InvalidRequest."""
        policy = policy_of(header, self._fallback, has_edge=self.edge is not None)
        return self.edge if policy == "edge" else None

    async def answer(
        self, endpoint: Endpoint, body: bytes, request_id: str, edge: Edge | None
    ) -> CloudAnswer | EdgeAnswer:
        """The answer to a request; `edge` goes on where the cloud is gone. Raises ApiError, as `open`.

        Whoever gets it calls `done` in the end.
        """
        self.requests += 1
        if self.edge_only and self.edge is not None:
            return await self.edge.begin(endpoint, body, "mode edge")
        try:
            stream, opened = await self.open(endpoint, body, request_id)
        except ApiError as error:
            if edge is None or edge.closed or not is_loss(error):
                raise
            return await begin(edge, endpoint, body, request_id, error)
        return CloudAnswer(stream, opened, edge)

    async def forward(self, endpoint: Endpoint, body: bytes, request_id: str, edge: Edge | None) -> Answer | EdgeAnswer:
        """The same for a request that cannot be drafted for. An answer of the gateway is the caller's to close."""
        self.requests += 1
        try:
            answer = await self.forwarder.ask(endpoint, with_noise(body), request_id)
            if edge is None or answer.status != Unavailable.status:
                return answer
            error: ApiError = Unavailable(said(answer.body))
        except ApiError as failure:
            if edge is None or edge.closed or not is_loss(failure):
                raise
            error = failure
        return await begin(edge, endpoint, body, request_id, error)

    def done(self, answer: CloudAnswer | EdgeAnswer, request_id: str) -> None:
        """The client has its answer, or is gone. Harmless when repeated."""
        if isinstance(answer, EdgeAnswer):
            answer.finish()
            self.records.add_edge(request_id, answer)
            return
        if answer.rest is not None:
            answer.rest.finish()
        self.finish(answer.stream, answer.rest)

    async def open(self, endpoint: Endpoint, body: bytes, request_id: str) -> tuple[RequestStream, Opened]:
        """Have the gateway accept a request. Raises ApiError; cancelling takes the request back."""
        try:
            return await self._open(endpoint, body, request_id, collaborative=True)
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
            opened = await stream.opened()
            name = session_name(opened.session)
            log.info("request %s is session %s", request_id, name, extra={"session": name})
            return stream, opened
        except BaseException:
            self.finish(stream)
            raise

    def finish(self, stream: RequestStream, rest: EdgeAnswer | None = None) -> None:
        """The client has its answer, or is gone. rest: what the draft model wrote of it. Harmless when repeated."""
        stream.client_left()
        self.records.add(stream, rest)
        if self._traces is not None:
            self._traces.add(stream)


def _log_death(task: asyncio.Task[None]) -> None:
    """The agent's tasks end by being cancelled only; anything else is a bug that somebody has to hear of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a task of the agent died", exc_info=error)


def _log_switch(switch: Switch) -> None:
    log.info("from now on %s (%s)", switch.way.name, switch.reason)


def _log_try(switch: Switch) -> None:
    log.info("for some tokens %s (%s)", switch.way.name, switch.reason)


def make_agent(config: AgentConfig, drafter: Drafter | None = None) -> Agent:
    """An agent as configured, or with another drafter. Blocks while models load. Raises ModelLoadError, ConfigError."""
    traces = TraceFiles(config.trace) if config.trace else None
    tls = config.tls()
    gateways = Gateways(config.addresses)
    worker = None
    if config.mode not in ("cloud", "edge"):
        worker = DraftWorker(drafter or _make_drafter(config))
    # After the model: an HTTP client is a tenth of all that the agent imports, and nobody waits for it there.
    from pipesd_agent.link.model_list import Catalog
    from pipesd_agent.link.passthrough import Forwarder

    if config.mode != "auto" and config.objective != "latency":
        log.warning("objective %s is of use with mode auto only; mode is %s", config.objective, config.mode)
    controller = _make_controller(config, gateways, worker)
    settings = LinkSettings(config.gateway_api_key, controller.policies, config.sessions, controller.planner.room_at)
    edge_only, edge = config.mode == "edge", None
    if config.draft_model is not None:
        if config.fallback == "edge" and not config.draft_model.is_file():  # else known on the day that it is needed
            raise ModelLoadError(f"the draft model {config.draft_model} does not exist: fallback needs it")
        edge = Edge(partial(_load_edge, config, config.draft_model), idle_s=None if edge_only else IDLE_S)
        if edge_only:
            edge.load()
    return Agent(
        Link(gateways, settings, worker, tls),
        Catalog(gateways, config.gateway_api_key, tls),
        Forwarder(gateways, config.gateway_api_key, tls),
        worker,
        cloud_on_mismatch=config.mode == "auto",
        edge=edge,
        fallback=config.fallback,
        edge_only=edge_only,
        traces=traces,
        controller=controller,
    )


def _make_controller(config: AgentConfig, gateways: Gateways, worker: DraftWorker | None) -> Controller:
    from pipesd_agent.control.controller import Controller  # numpy, which comes with the model
    from pipesd_agent.control.upload_planner import Planner

    tuners, optimizer = None, None
    if config.tuner.enabled and config.trigger.kind == "dual" and worker is not None:
        optimizer = _optimizer(config)
        tuners = Tuners(
            Pair(config.trigger.r1, config.trigger.r2),
            Background(Child(optimizer)).proposer,
            window=config.session.window,
            upload=UPLOADS[config.batcher],
            price_ms=config.price_ms,
            kept=GoodPairs(state_file()),
            draft=f"{config.draft_model.name if config.draft_model else ''} {(worker.fingerprint or b'').hex()}",
        )

    def gateway() -> str:
        return "" if gateways.current is None else gateways.current.address.http

    return Controller(
        config.trigger,
        Planner(config.batcher),
        auto=AutoMode(config.objective, switched=_log_switch, tried=_log_try) if config.mode == "auto" else None,
        mode=config.mode,
        tuners=tuners,
        optimizer=optimizer,
        gateway=gateway,
    )


def _optimizer(config: AgentConfig) -> OptimizerName:
    """What is in use, which the log is told."""
    optimizer = in_use(config.tuner.optimizer)
    lacking = f" (scikit-optimize is not installed: {INSTALL})" if config.tuner.optimizer == "auto" else ""
    log.info("tuner: %s looks for thresholds%s", SAYS[optimizer], lacking if optimizer == "search" else "")
    return optimizer


async def _keep(tuners: Tuners) -> None:
    """Good thresholds go to the disk now and then, and at the end; then there are no more studies."""
    try:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await asyncio.to_thread(tuners.save)
    finally:
        tuners.save()
        tuners.close()


def _load_edge(config: AgentConfig, model: Path) -> EmbeddedEngine:
    from pipesd_core.llamacpp.probe import check_model_runs
    from pipesd_core.llamacpp.runtime.decoder import TargetDecoder
    from pipesd_core.llamacpp.runtime.engine import EmbeddedEngine

    if config.mode in ("cloud", "edge") or config.gpu_layers:  # else the drafter has tried it
        check_model_runs(model)
    decoder = TargetDecoder(model, n_seq=config.capacity, n_ctx_seq=config.context, threads=config.threads)
    return EmbeddedEngine(decoder, name=decoder.model.name)


def _make_drafter(config: AgentConfig) -> Drafter:
    if config.draft_model is None:
        from pipesd_agent.drafting.lookup import LookupDrafter

        return LookupDrafter(capacity=config.capacity, max_context=config.context)
    from pipesd_agent.drafting.llama import LlamaDrafter
    from pipesd_core.llamacpp.probe import check_model_runs

    check_model_runs(config.draft_model, gpu_layers=config.gpu_layers)
    return LlamaDrafter(
        config.draft_model,
        capacity=config.capacity,
        n_ctx_seq=config.context,
        threads=config.threads,
        gpu_layers=config.gpu_layers,
    )
