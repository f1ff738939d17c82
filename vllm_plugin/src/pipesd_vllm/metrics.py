"""What the plugin adds to vLLM's own `/metrics`."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from pipesd_core.engine.rounds import Decided

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_OPENED = Counter("pipesd_sessions", "Sessions that were opened")
_OPEN = Gauge("pipesd_sessions_open", "Sessions that the scheduler knows")
_PARKED = Gauge("pipesd_sessions_parked", "Sessions that wait for their edge and hold KV blocks")
_EVICTED = Gauge("pipesd_sessions_evicted", "Sessions that wait for their edge and have lost their KV blocks")
_EVICTIONS = Counter("pipesd_evictions", "Parked sessions that lost their KV blocks")
_STEPS = Counter("pipesd_steps", "Steps of sessions, with drafts or without")
_NAVS = Counter("pipesd_navs", "Steps of sessions that verified drafts")
_DRAFTS = Counter("pipesd_drafts", "Drafts that were verified")
_ACCEPTED = Counter("pipesd_drafts_accepted", "Drafts that were right")
_TOKENS = Histogram(
    "pipesd_tokens_per_step", "Output tokens of a step of a session", buckets=(1, 2, 3, 4, 6, 8, 12, 17)
)
_QUEUE = Histogram("pipesd_queue_seconds", "From the order of a step to its being scheduled", buckets=_SECONDS)
_FORWARD = Histogram("pipesd_forward_seconds", "From a step's being scheduled to its tokens", buckets=_SECONDS)


class Metrics:
    """Counts for one API server."""

    def __init__(self) -> None:
        self._evictions = 0

    def opened(self) -> None:
        _OPENED.inc()

    def step(self, step: Decided, queue_us: int, forward_us: int) -> None:
        """One step of a session; us: microseconds."""
        _STEPS.inc()
        if step.verified:
            _NAVS.inc()
            _DRAFTS.inc(step.verified)
            _ACCEPTED.inc(step.accepted)
        _TOKENS.observe(len(step.tokens))
        _QUEUE.observe(queue_us * 1e-6)
        _FORWARD.observe(forward_us * 1e-6)

    def scheduler(self, figures: Mapping[str, int]) -> None:
        """See `ParkingScheduler.pipesd_stats`."""
        _OPEN.set(figures["sessions"])
        _PARKED.set(figures["parked"])
        _EVICTED.set(figures["evicted"])
        _EVICTIONS.inc(figures["evictions"] - self._evictions)
        self._evictions = figures["evictions"]
