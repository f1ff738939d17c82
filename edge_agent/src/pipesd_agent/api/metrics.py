"""`GET /metrics` of the agent: what the control plane knows and does, in Prometheus' text format (architecture §6).

There is no registry that is written to on the way: a scrape reads the figures of that moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pipesd_agent.control.figures import ControlFigures

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(figures: ControlFigures) -> bytes:
    """The answer to a scrape, of `CONTENT_TYPE`."""
    from prometheus_client import CollectorRegistry, generate_latest  # 0.1 s and more, of no use to the start

    class Figures:
        def collect(self) -> Iterator[Metric]:
            return _metrics(figures)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures())
    return generate_latest(registry)


def _metrics(figures: ControlFigures) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    def gauge(name: str, says: str, value: float | None) -> Iterator[Metric]:
        if value is not None:
            yield GaugeMetricFamily(f"pipesd_{name}", says, float(value))

    def counter(name: str, says: str, value: float | None) -> Iterator[Metric]:
        if value is not None:
            yield CounterMetricFamily(f"pipesd_{name}", says, float(value))

    def info(name: str, says: str, **labels: str | None) -> Iterator[Metric]:
        known = {label: value for label, value in labels.items() if value is not None}
        if known:
            yield InfoMetricFamily(f"pipesd_{name}", says, known)

    monitor = figures.monitor
    if monitor is not None:
        window, totals = monitor.window, monitor.totals
        yield from gauge("alpha_seconds", "Uplink busy with a draft message besides its tokens", monitor.alpha_s)
        yield from gauge("beta_seconds", "Uplink busy with each token of a draft message", monitor.beta_s)
        yield from gauge("gamma_seconds", "Drafting a token, mean of the last 100", monitor.gamma_s)
        yield from gauge("rtt_seconds", "A message there and back that waits for nothing", monitor.rtt_s)
        yield from gauge("verify_seconds", "A step of the target without drafts", monitor.verify_base_s)
        if monitor.verify_base_s is not None:
            yield from gauge("verify_draft_seconds", "What each draft adds to a step", monitor.verify_row_s)
        yield from gauge("queue_seconds", "What a step waits for others at the gateway", monitor.queue_s)
        yield from gauge("acceptance_ratio", "Share of the drafts judged that were right", monitor.acceptance)
        by_confidence = GaugeMetricFamily(
            "pipesd_confidence_acceptance_ratio", "The same, by the draft's confidence (up to)", labels=["upto"]
        )
        for group in monitor.by_confidence:
            if group.weight:
                by_confidence.add_metric([f"{group.upto:g}"], group.right)
        if by_confidence.samples:
            yield by_confidence
        yield from gauge("draft_length_mean", "Drafts before a NAV, mean of the last 100", figures.mean_length)
        if window is not None:
            yield from gauge("token_seconds", "Time per output token over the last windows", window.tpot_s)
            yield from gauge(
                "navs_per_token", "NAVs per output token over the last windows", window.verifications_per_token
            )
        yield from counter("sessions", "Opened at a gateway", monitor.sessions)
        yield from counter("output_tokens", "Decided by the target", totals.tokens)
        yield from counter("drafted_tokens", "Drafted", totals.drafted)
        yield from counter("sent_tokens", "Drafts sent", totals.sent)
        yield from counter("accepted_tokens", "Drafts sent that were right", totals.accepted)
        yield from counter("navs", "Steps of the target that a NAV caused", totals.verifications)
        yield from counter("forwards", "Steps of the target", totals.forwards)
        yield from counter("rollbacks", "Drafts thrown away", totals.discards)
    yield from gauge("n_hat", "Draft length that the plan is for", figures.n_hat)
    plan = None if figures.plan is None else " ".join(map(str, figures.plan))
    yield from info("plan", "Batches that drafts leave in, in tokens", batcher=figures.batcher, batches=plan)
    yield from info("trigger", "What asks for a NAV", trigger=figures.trigger)
    yield from info("tuner", "What looks for better thresholds", optimizer=figures.optimizer)
    for at, (name, says) in enumerate((("r1", "the sequence's"), ("r2", "a token's"))):
        thresholds = GaugeMetricFamily(f"pipesd_{name}", f"Threshold of {says} confidence", labels=["text"])
        for text, pair in figures.thresholds.items():
            thresholds.add_metric([text], pair[at])
        if thresholds.samples:
            yield thresholds
    yield from info("mode", "What sessions are in, and why", mode=figures.mode, reason=figures.mode_reason)
    yield from counter("requests", "Requests", figures.requests)
    yield from gauge("requests_running", "Requests that run", figures.running)
