"""The figures behind `GET /metrics` of the agent: its requests, and what the control plane knows and does.

docs/operation.md lists them. What the control plane shows is read at the moment of the scrape; only requests are
counted on the way.
"""

from __future__ import annotations

import itertools
from typing import Final, Literal, get_args

from pipesd_agent.control.figures import ControlFigures
from pipesd_agent.control.mode import Strategy
from pipesd_agent.telemetry.monitor import MonitorFigures
from pipesd_core.service.exposition import Families
from pipesd_core.service.request_metrics import RequestMetrics

Route = Literal["session", "passthrough", "edge"]
"""What a request begins with: a session at the gateway; the gateway's own OpenAI API; the draft model alone."""

MODES: Final = (*(strategy.label for strategy in Strategy), "edge")
"""How sessions go on: see `control.mode`; last `--mode edge`, which has no sessions."""
_MODE_OF_SETTING: Final = {
    "collaborative": Strategy.SPECULATIVE.label,
    "cloud": Strategy.TARGET_ONLY.label,
}


def mode_of(figures: ControlFigures) -> str | None:
    """The mode in use, of `MODES`. None: there is no control plane."""
    return None if figures.mode is None else _MODE_OF_SETTING.get(figures.mode, figures.mode)


class AgentRequests:
    """The metrics of an agent's requests, by route."""

    def __init__(self) -> None:
        self._by_route: dict[Route, RequestMetrics] = {route: RequestMetrics() for route in get_args(Route)}

    def of(self, route: Route) -> RequestMetrics:
        return self._by_route[route]

    def add_to(self, families: Families) -> None:
        """Add everything to a scrape."""
        for route, requests in self._by_route.items():
            requests.add_to(families, route=route)


def families_of(figures: ControlFigures, requests: AgentRequests) -> Families:
    """What a scrape shows. A figure that is not known is left out."""
    families = Families("pipesd_agent_")
    requests.add_to(families)
    gauge = families.gauge
    gauge("sessions_running", "Sessions at the gateway", figures.running)
    if figures.monitor is not None:
        _measured(families, figures.monitor)
    gauge("draft_length", "Drafts before a verification, mean of the last 100", figures.mean_length)
    gauge("draft_length_planned", "Draft length that uploads are planned for", figures.n_hat)
    if figures.plan is not None:
        gauge("plan_batches", "Messages that a draft of the planned length leaves in", len(figures.plan))
        gauge("plan_tokens", "Drafts in these messages", sum(figures.plan))
    if figures.batcher is not None:
        gauge("batcher_info", "What decides when drafts leave", 1, batcher=figures.batcher)
    if figures.trigger is not None:
        gauge("trigger_info", "What asks for a verification", 1, trigger=figures.trigger)
    if figures.optimizer is not None:
        gauge("tuner_info", "What looks for better thresholds", 1, optimizer=figures.optimizer)
    for sampling, (sequence, token) in figures.thresholds.items():
        gauge("sequence_threshold", "Confidence in a draft sequence to be verified below", sequence, sampling=sampling)
        gauge("token_threshold", "Confidence in a drafted token to be verified below", token, sampling=sampling)
    families.state("mode", "How sessions go on: 1 for the mode in use", "mode", mode_of(figures), MODES)
    return families


def _measured(families: Families, monitor: MonitorFigures) -> None:
    gauge, counter, totals = families.gauge, families.counter, monitor.totals
    gauge("uplink_message_seconds", "Uplink busy with a draft message besides its tokens", monitor.message_s)
    gauge("uplink_token_seconds", "Uplink busy with each token of a draft message", monitor.token_s)
    gauge("uplink_round_trip_seconds", "A message there and back that waits for nothing", monitor.rtt_s)
    gauge("drafted_token_seconds", "Drafting a token, mean of the last 100", monitor.draft_s)
    gauge("target_step_seconds", "A step of the target without drafts", monitor.verify_base_s)
    if monitor.verify_base_s is not None:
        gauge("target_step_draft_seconds", "What each draft adds to a step", monitor.verify_row_s)
    gauge("target_step_queue_seconds", "What a step waits for others at the gateway", monitor.queue_s)
    gauge("draft_acceptance_ratio", "Share of the judged drafts that were accepted", monitor.acceptance)
    if monitor.acceptance is not None:
        weights = itertools.accumulate(group.weight for group in monitor.by_confidence)
        accepted = itertools.accumulate(group.weight * group.right for group in monitor.by_confidence)
        for group, judged, right in zip(monitor.by_confidence, weights, accepted, strict=True):
            le = f"{group.upto:g}"
            gauge("judged_drafts_recent", "Judged drafts up to a confidence, older ones count less", judged, le=le)
            gauge("accepted_drafts_recent", "Those of them that were accepted", right, le=le)
    if monitor.window is not None:
        gauge("recent_output_token_seconds", "Time per output token, of the last 400 tokens", monitor.window.tpot_s)
        gauge(
            "recent_verifications_per_output_token",
            "Verifications per output token, of the last 400 tokens",
            monitor.window.verifications_per_token,
        )
    counter("sessions_opened", "Sessions that a gateway accepted", monitor.sessions)
    counter("output_tokens", "Tokens that the target decided in sessions", totals.tokens)
    counter("draft_tokens", "Tokens drafted", totals.drafted)
    counter("sent_draft_tokens", "Drafts sent, each counted once", totals.sent)
    counter("accepted_draft_tokens", "Drafts sent that were accepted", totals.accepted)
    counter("verification_requests", "Draft messages that asked for a verification", totals.requests)
    counter("verifications", "Steps of the target that a draft message asked for", totals.verifications)
    counter("target_steps", "Steps of the target in sessions", totals.forwards)
    counter("draft_discards", "Times that the target contradicted the drafts, which were thrown away", totals.discards)
