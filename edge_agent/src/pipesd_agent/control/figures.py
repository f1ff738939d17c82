"""What the control plane shows of itself: the figures behind `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipesd_agent.telemetry.monitor import MonitorFigures

Pairs = dict[str, tuple[float, float]]
"""(R1, R2) by the kind of text that they are for: greedy, sampled; fixed: of both."""


@dataclass(frozen=True)
class ControlFigures:
    """What there is to show; what is None is left out.

    monitor: what was measured. n_hat: draft length that the plan is made for; mean_length: of the last drafts.
    plan: its batches, in tokens, repeated; batcher, trigger: their names. thresholds: in use; optimizer: what looks for
    better ones. mode: what sessions are in now (or the last one was), and the reason of its last change. running:
    sessions at the gateway now.
    """

    monitor: MonitorFigures | None = None
    n_hat: int | None = None
    mean_length: float | None = None
    plan: tuple[int, ...] | None = None
    batcher: str | None = None
    trigger: str | None = None
    thresholds: Pairs = field(default_factory=dict)
    optimizer: str | None = None
    mode: str | None = None
    mode_reason: str | None = None
    running: int | None = None
