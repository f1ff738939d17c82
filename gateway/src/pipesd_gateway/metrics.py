"""The figures behind `GET /metrics`, measured at the engine interface: the same for every engine.

`GatewayMetrics.measure` puts itself between an engine and whoever asks it for generations. Names that begin with
`pipesd_gateway_` are of requests, those with `pipesd_engine_` of the target's steps. docs/operation.md lists all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pipesd_core.engine.interface import (
    Broken,
    Deliver,
    Engine,
    EngineOutput,
    Finished,
    Generation,
    ModelInfo,
    Opening,
    StepDone,
)
from pipesd_core.protocol.messages import Endpoint
from pipesd_core.service.exposition import Families, Family
from pipesd_core.service.histograms import Histogram
from pipesd_core.service.request_metrics import RequestMetrics, RequestTimer

Source = Literal["agent", "api", "verify"]
"""Who asks: sessions of agents; clients of the server's own OpenAI API; `POST /v1/pipesd/verify`."""

STEP_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds of one step of the target."""
STEP_TOKENS_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 17)
"""Output tokens of one step: the accepted drafts and one more."""


class StepMetrics:
    """The steps that an engine took for sequences. A forward pass is a step of each sequence in it."""

    def __init__(self) -> None:
        self.steps = self.verifications = self.draft_tokens = self.accepted_draft_tokens = 0
        self.tokens = Histogram(STEP_TOKENS_BUCKETS)
        self.queue_time = Histogram(STEP_BUCKETS)
        self.forward_time = Histogram(STEP_BUCKETS)

    def add(self, step: StepDone) -> None:
        """Count a step."""
        self.steps += 1
        if step.verified:
            self.verifications += 1
            self.draft_tokens += step.verified
            self.accepted_draft_tokens += step.accepted
        self.tokens.observe(len(step.tokens))
        self.queue_time.observe(step.queue_us * 1e-6)
        self.forward_time.observe(step.forward_us * 1e-6)

    def add_to(self, families: Families) -> None:
        """Add everything to a scrape."""
        families.counter("steps", "Steps of sequences, with drafts or without", self.steps)
        families.counter("verifying_steps", "Steps of sequences that verified drafts", self.verifications)
        families.counter("draft_tokens", "Drafts that were verified", self.draft_tokens)
        families.counter("accepted_draft_tokens", "Drafts that were accepted", self.accepted_draft_tokens)
        families.histogram("step_tokens", "Output tokens of a step of a sequence", self.tokens)
        families.histogram("step_queue_seconds", "From the order of a step to its forward pass", self.queue_time)
        families.histogram("step_forward_seconds", "Forward pass that a step of a sequence was in", self.forward_time)


class GatewayMetrics:
    """The metrics of one server with one engine, on the event loop's thread."""

    def __init__(self) -> None:
        self._requests: dict[Source, RequestMetrics] = {}
        self._steps = StepMetrics()

    def measure(self, engine: Engine, source: Source) -> Engine:
        """Wrap the engine for one kind of caller, so that what it does is measured.

        Of `verify` only steps are counted: its generations are let go of when the drafts are judged, so that they have
        no end that could be timed.
        """
        requests = RequestMetrics() if source == "verify" else self._requests.setdefault(source, RequestMetrics())
        return _MeasuredEngine(engine, requests, self._steps)

    def families(self, load: Mapping[str, int]) -> list[Family]:
        """What a scrape shows. load: what `/health` says that the server holds."""
        gateway, engine = Families("pipesd_gateway_"), Families("pipesd_engine_")
        for source, requests in self._requests.items():
            requests.add_to(gateway, source=source)
        gateway.gauge("sessions_resumable", "Sessions that their agent could resume", load.get("resumable"))
        self._steps.add_to(engine)
        engine.gauge("sequences_free", "Sequences of the target that nobody has", load.get("places_free"))
        engine.gauge("admission_queue_length", "Requests that wait for a sequence of the target", load.get("queued"))
        return [*gateway, *engine]


class _MeasuredEngine:
    """An `Engine` that counts what another one does."""

    def __init__(self, engine: Engine, requests: RequestMetrics, steps: StepMetrics) -> None:
        self._engine = engine
        self._requests = requests
        self._steps = steps

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    async def open(self, endpoint: Endpoint, body: bytes, deliver: Deliver) -> Generation:
        timer = self._requests.arrived(time.monotonic())
        generation = _MeasuredGeneration(timer, self._steps, deliver)
        try:
            await generation.open(self._engine, endpoint, body)
        except asyncio.CancelledError:
            timer.finish("aborted", time.monotonic())
            raise
        except Exception:
            timer.finish("failed", time.monotonic())
            raise
        timer.accepted(time.monotonic())
        return generation

    async def aclose(self) -> None:
        await self._engine.aclose()


class _MeasuredGeneration:
    """A `Generation` that counts what another one delivers."""

    _generation: Generation

    def __init__(self, timer: RequestTimer, steps: StepMetrics, deliver: Deliver) -> None:
        self._timer = timer
        self._steps = steps
        self._deliver = deliver
        self._tokens = 0

    async def open(self, engine: Engine, endpoint: Endpoint, body: bytes) -> None:
        """Have the engine accept the request."""
        self._generation = await engine.open(endpoint, body, self._measured)

    @property
    def opening(self) -> Opening:
        return self._generation.opening

    def step(self, drafts: Sequence[int], ahead: int = 0) -> None:
        self._generation.step(drafts, ahead)

    def abort(self) -> None:
        self._timer.finish("aborted", time.monotonic())
        self._generation.abort()

    def _measured(self, output: EngineOutput) -> None:
        match output:
            case StepDone():
                self._tokens += len(output.tokens)
                self._steps.add(output)
                self._timer.output(self._tokens, time.monotonic())
            case Finished():
                self._timer.finish("completed", time.monotonic())
            case Broken():
                self._timer.finish("failed", time.monotonic())
        self._deliver(output)
