"""The parts of a running agent, put together from its configuration."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, Final

from pipesd_agent.control.controller import Controller
from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.link import Link
from pipesd_agent.link.model_list import Catalog
from pipesd_agent.link.passthrough import Answer, Forwarder, with_noise
from pipesd_agent.local.answer import EdgeAnswer
from pipesd_agent.local.fallback import CloudAnswer, Policy, begin, is_loss, policy_of
from pipesd_agent.local.model import Edge
from pipesd_agent.session.records import Records, RequestRecord
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry.tracing import TraceFiles, Tracer
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_core.errors import ApiError, Unavailable, VocabularyMismatch, error_message_from_body
from pipesd_core.protocol.messages import Endpoint, Opened
from pipesd_core.service.logs import session_name

log = logging.getLogger(__name__)

KEEP_EVERY_S: Final = 60.0


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
        self._running: dict[RequestStream, tuple[RequestRecord, Tracer | None]] = {}
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
            error: ApiError = Unavailable(error_message_from_body(answer.body) or "the gateway is not available")
        except ApiError as failure:
            if edge is None or edge.closed or not is_loss(failure):
                raise
            error = failure
        return await begin(edge, endpoint, body, request_id, error)

    def done(self, answer: CloudAnswer | EdgeAnswer, request_id: str) -> None:
        """The client has its answer, or is gone. Harmless when repeated."""
        if isinstance(answer, EdgeAnswer):
            answer.finish()
            self.records.add_local(request_id, answer.record())
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
        record = RequestRecord(request_id)
        tracer = self._traces.begin() if self._traces is not None and collaborative else None
        observers = (record,) if tracer is None else (record, tracer)
        stream = await self.link.request(endpoint, body, request_id, collaborative=collaborative, observers=observers)
        self._running[stream] = record, tracer
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
        if stream not in self._running:
            return
        record, tracer = self._running.pop(stream)
        self.records.add(record, None if rest is None else rest.record())
        if self._traces is not None and tracer is not None:
            session = stream.session
            self._traces.add(tracer.trace(stream.request_id, session.opened, session.committed))


def _log_death(task: asyncio.Task[None]) -> None:
    """The agent's tasks end by being cancelled only; anything else is a bug that somebody has to hear of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a task of the agent died", exc_info=error)


async def _keep(tuners: Tuners) -> None:
    """Good thresholds go to the disk now and then, and at the end; then there are no more studies."""
    try:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await asyncio.to_thread(tuners.save)
    finally:
        tuners.save()
        tuners.close()
