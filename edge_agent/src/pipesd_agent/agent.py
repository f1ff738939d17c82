"""A running agent: which part answers a request, and who keeps the parts running."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any, Final

from pipesd_agent.answer import Answer
from pipesd_agent.control.controller import Controller
from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.drafting.status import DraftingOff, DraftingStatus
from pipesd_agent.drafting.worker import DraftWorker
from pipesd_agent.link.link import Link
from pipesd_agent.link.model_list import ModelList
from pipesd_agent.link.passthrough import (
    ForwardedRequest,
    PassthroughAnswer,
    PassthroughClient,
    of_endpoint,
    with_noise,
)
from pipesd_agent.local.answer import LocalAnswer
from pipesd_agent.local.fallback import (
    CloudAnswer,
    FallbackPolicy,
    fallback_policy,
    is_unavailable,
    start_local_answer,
)
from pipesd_agent.local.model import LocalModel
from pipesd_agent.session.records import Records, RequestRecord
from pipesd_agent.session.remote_error import RemoteError
from pipesd_agent.session.stream import RequestStream
from pipesd_agent.telemetry.tracing import TraceFiles, Tracer
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_core.errors import ApiError, InvalidRequest, Unavailable, VocabularyMismatch, error_message_from_body
from pipesd_core.protocol.messages import Endpoint, Opened
from pipesd_core.service.logs import session_name
from pipesd_core.service.tasks import Tasks

log = logging.getLogger(__name__)

STORE_EVERY_S: Final = 60.0


class NoGateway(InvalidRequest):
    """What is asked for is a gateway's, and this agent has none."""

    status = 404


class Agent:
    """Answers the requests of all clients; owns the tasks of the link, of the model list and of the threshold store.

    Args:
        link: carries the requests that are drafted for. model_list: what `/v1/models` lists.
        passthrough: sends the others to the gateway's own OpenAI API.
        worker: drafts; None: nothing is drafted.
        cloud_on_mismatch: serve cloud-only when the drafter's vocabulary is not the target's, instead of refusing.
        local: the draft model as an engine of its own; None: there is none.
        fallback: whether `local` takes over where the cloud is gone, for requests that do not say.
        local_only: never ask a gateway for anything.
        traces: where finished requests are recorded.
        controller: steers the link's sessions.
        drafting: whether anything is drafted, which others tell it as well.
    """

    def __init__(
        self,
        link: Link,
        model_list: ModelList,
        passthrough: PassthroughClient,
        worker: DraftWorker | None,
        *,
        cloud_on_mismatch: bool = False,
        local: LocalModel | None = None,
        fallback: FallbackPolicy = "error",
        local_only: bool = False,
        traces: TraceFiles | None = None,
        controller: Controller | None = None,
        drafting: DraftingStatus | None = None,
    ) -> None:
        if local is None and (local_only or fallback == "edge"):
            raise ValueError("there is no local model to fall back to")
        self.link = link
        self.model_list = model_list
        self.passthrough = passthrough
        self.worker = worker
        self.local = local
        self.local_only = local_only
        self.drafting = drafting or DraftingStatus("", "")
        self.records = Records()
        self._controller = controller
        self._fallback: FallbackPolicy = fallback
        self._cloud_on_mismatch = cloud_on_mismatch
        self._traces = traces
        self._running: dict[RequestStream, tuple[RequestRecord, Tracer | None]] = {}
        self.tasks = Tasks()
        if worker is not None:
            self.tasks.watch("drafter", lambda: worker.fault)

    @property
    def models(self) -> list[dict[str, Any]]:
        """The list for `/v1/models`."""
        return self.local.listing if self.local is not None and self.local_only else self.model_list.models

    def start(self) -> None:
        """Start the tasks, which run until `aclose`."""
        if self.local_only:
            return
        self.tasks.start("link", self.link.run)
        self.tasks.start("model list", self.model_list.run)
        if (tuners := self._tuners) is not None:
            self.tasks.start("threshold store", lambda: _store_thresholds(tuners))

    async def aclose(self) -> None:
        """End every running request with an error, then the drafter. Harmless when repeated."""
        if self.local is not None:
            self.local.closed = True  # an agent that stops is no lost cloud
        await self.tasks.aclose()
        if self._tuners is not None:
            try:
                await asyncio.to_thread(self._tuners.save)
            finally:
                self._tuners.close()
        await self.passthrough.aclose()
        if self.worker is not None:
            await self.worker.aclose()
        if self.local is not None:
            await self.local.aclose()
        if self._traces is not None:
            await self._traces.aclose()

    @property
    def _tuners(self) -> Tuners | None:
        return None if self._controller is None else self._controller.tuners

    def figures(self) -> ControlFigures:
        """The figures for `/metrics`."""
        figures = ControlFigures() if self._controller is None else self._controller.figures()
        return replace(figures, running=self.link.requests)

    def fallback_for(self, header: str | None) -> LocalModel | None:
        """The model for a request with this `x-pipesd-fallback` when the cloud is gone. Raises InvalidRequest."""
        policy = fallback_policy(header, self._fallback, has_local_model=self.local is not None)
        return self.local if policy == "edge" else None

    async def answer(self, endpoint: Endpoint, body: bytes, request_id: str, fallback: LocalModel | None) -> Answer:
        """The answer to a request that can be drafted for; `fallback` writes it, or its rest, where the cloud is gone.

        The caller closes the answer. Raises ApiError; cancelling takes the request back.
        """
        if self.local_only and self.local is not None:
            return self._recorded(await self.local.start(endpoint, body, "mode edge"), request_id)
        try:
            stream, opened = await self._open(endpoint, body, request_id)
        except ApiError as error:
            return await self._answer_locally(fallback, endpoint, body, request_id, error)
        answer = CloudAnswer(body, stream, opened, fallback)
        answer.add_finish_callback(lambda: self._finish(stream, answer.rest))
        return answer

    async def pass_through(
        self, endpoint: Endpoint, body: bytes, request_id: str, fallback: LocalModel | None, *, reason: str
    ) -> Answer:
        """The answer to a request that cannot be drafted for, for `reason`: of the gateway's own OpenAI API.

        Else as `answer`.
        """
        began = time.monotonic()
        try:
            answer = await self.passthrough.request(of_endpoint(endpoint, with_noise(body)), request_id)
            if answer.status == 200:
                answer.add_finish_callback(lambda: self._record_forwarded(request_id, answer, began, reason))
            if fallback is None or answer.status != Unavailable.status:
                return answer
            error: ApiError = Unavailable(error_message_from_body(answer.body) or "the gateway is not available")
        except ApiError as failure:
            error = failure
        return await self._answer_locally(fallback, endpoint, body, request_id, error)

    async def forward(self, request: ForwardedRequest, request_id: str) -> PassthroughAnswer:
        """The gateway's answer to a request of a route that is its own. Raises ApiError; else as `answer`."""
        if self.local_only:
            raise NoGateway(f"there is no {request.method} {request.target[:128]} without a gateway (mode edge)")
        return await self.passthrough.request(request, request_id)

    async def _answer_locally(
        self, fallback: LocalModel | None, endpoint: Endpoint, body: bytes, request_id: str, error: ApiError
    ) -> Answer:
        """The draft model's answer instead of `error`, which is raised where it is not to have a fallback."""
        if fallback is None or fallback.closed or not is_unavailable(error):
            raise error
        return self._recorded(await start_local_answer(fallback, endpoint, body, request_id, error), request_id)

    def _record_forwarded(self, request_id: str, answer: PassthroughAnswer, began: float, reason: str) -> None:
        seconds = round(time.monotonic() - began, 4)
        label = {"mode": "cloud", "reason": reason}
        self.records.add_figures(request_id, answer.figures.record() | {"seconds": seconds, "pipesd": label})

    def _recorded(self, answer: LocalAnswer, request_id: str) -> LocalAnswer:
        answer.add_finish_callback(lambda: self.records.add_figures(request_id, answer.record()))
        return answer

    async def _open(
        self, endpoint: Endpoint, body: bytes, request_id: str, *, collaborative: bool = True
    ) -> tuple[RequestStream, Opened]:
        """Have the gateway accept a request. Raises ApiError; cancelling takes the request back."""
        record = RequestRecord(request_id)
        tracer = self._traces.begin() if self._traces is not None and collaborative else None
        observers = (record,) if tracer is None else (record, tracer)
        stream = await self.link.request(endpoint, body, request_id, collaborative=collaborative, observers=observers)
        self._running[stream] = record, tracer
        self.records.begin(record)
        try:
            opened = await stream.opened()
        except BaseException as error:
            self._finish(stream)
            mismatch = isinstance(error, RemoteError) and error.message == VocabularyMismatch.code
            if mismatch:
                self.drafting.set_off(DraftingOff.VOCABULARY)
            if not (mismatch and collaborative and self._cloud_on_mismatch):
                raise
        else:
            if collaborative:
                self.drafting.set_on(DraftingOff.VOCABULARY)
            name = session_name(opened.session)
            log.info("request %s is session %s", request_id, name, extra={"session": name})
            return stream, opened
        log.warning("request %s: the drafter's vocabulary is not the target's, served cloud-only", request_id)
        return await self._open(endpoint, body, request_id, collaborative=False)

    def _finish(self, stream: RequestStream, rest: LocalAnswer | None = None) -> None:
        """Record a request whose client has its answer, or is gone. rest: the draft model's part of the answer."""
        stream.client_left()
        if stream not in self._running:
            return
        record, tracer = self._running.pop(stream)
        self.records.add(record, None if rest is None else rest.record())
        if self._traces is not None and tracer is not None:
            session = stream.session
            self._traces.add(tracer.trace(stream.request_id, session.opened, session.committed))


async def _store_thresholds(tuners: Tuners) -> None:
    """Write accepted thresholds to the disk now and then."""
    while True:
        await asyncio.sleep(STORE_EVERY_S)
        await asyncio.to_thread(tuners.save)
