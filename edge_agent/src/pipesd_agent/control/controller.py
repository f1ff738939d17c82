"""The control plane: what is measured of all sessions goes to what steers all sessions (architecture §6).

    events of sessions ──▶ Monitor ──▶ Planner (when to send), Tuners (thresholds of the trigger)
                      ├──▶ Calibration (how sure a draft is)
                      └──▶ ModeSelector (drafting or target-only)

One `Controller` per agent; `policies` is what a session gets of it. It has no clock and does no I/O: everything happens
while a session tells its observers something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from pipesd_agent.control.calibration import Calibration, SessionCalibration
from pipesd_agent.control.figures import ControlFigures, Pairs
from pipesd_agent.control.mode import ModeSelector
from pipesd_agent.control.triggers import DualSettings, DualThreshold, TriggerSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import Decision, NullObserver, Observers, SessionObserver
from pipesd_agent.session.policies import AlwaysDraft, Policies
from pipesd_agent.telemetry.monitor import TPOT_WINDOWS, Monitor
from pipesd_agent.tuning.optimizers.choice import OptimizerName
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.replay import PipelineCosts
from pipesd_core.protocol.messages import Opened

log = logging.getLogger(__name__)

US: Final = 1e6
SETTLED: Final = 2 * TPOT_WINDOWS * 100
"""Output tokens after a change of ours before time per token says anything about the world again."""
COSTS_EVERY_S: Final = 1.0
"""How often the tuners get new costs."""


class Controller:
    """The control plane of one agent.

    Args:
        trigger: which one, and where tuning begins.
        planner: of batches.
        auto: of modes; None: sessions draft whenever they can.
        tuners: of `dual`'s thresholds; None: they stay. optimizer: what they search with.
        mode: the configured one, where `auto` is None.
        gateway: address of the one that the link is up to.
    """

    def __init__(
        self,
        trigger: TriggerSettings,
        planner: Planner,
        *,
        auto: ModeSelector | None = None,
        tuners: Tuners | None = None,
        optimizer: OptimizerName | None = None,
        mode: str = "collaborative",
        gateway: Callable[[], str] = str,
    ) -> None:
        self.monitor = Monitor()
        self.planner = planner
        self.auto = auto
        self.tuners = tuners
        self._optimizer = optimizer
        self.calibrations = {sampled: Calibration() for sampled in (False, True)}
        """The calibration of confidences, by whether answers are sampled (temperature above 0)."""
        self._trigger = trigger
        self._mode = mode
        self._gateway = gateway
        self._costs_at = -COSTS_EVERY_S
        self._state: object = None
        self._changed_at = 0

    def policies(self) -> Policies:
        """The policies of a new session, with everybody who observes it."""
        calibration = SessionCalibration(self.calibrations)
        observers: list[SessionObserver] = [calibration, self.monitor.observer(), self.planner.observer()]
        trigger = self._trigger.make()
        if self.tuners is not None and isinstance(trigger, DualThreshold):
            trigger.thresholds = self.tuners.thresholds
            observers.append(self.tuners.recorder(trigger))
        return Policies(
            trigger,
            self.planner.batcher(),
            Observers(*observers, ControllerObserver(self)),
            AlwaysDraft() if self.auto is None else self.auto.session(),
            calibration,
        )

    def figures(self) -> ControlFigures:
        """The figures that `/metrics` shows."""
        trigger = self._trigger
        pairs: Pairs = {"fixed": (trigger.r1, trigger.r2)} if isinstance(trigger, DualSettings) else {}
        if self.tuners is not None:
            pairs = {text: (f.pair.r1, f.pair.r2) for text, f in self.tuners.figures().items()}
        auto = self.auto
        return ControlFigures(
            monitor=self.monitor.figures(),
            n_hat=self.planner.n_hat,
            mean_length=self.planner.lengths.mean,
            plan=self.planner.plan,
            batcher=self.planner.name,
            trigger=trigger.kind,
            thresholds=pairs,
            optimizer=self._optimizer,
            mode=self._mode if auto is None else auto.strategy.label,
            mode_reason="configured" if auto is None else auto.reason,
        )

    # For sessions.

    def opened(self) -> None:
        if self.tuners is not None:
            self.tuners.gateway(self._gateway())

    def decided(self, now: float) -> None:
        """Look at what has moved: a verdict has been measured."""
        moved = self.monitor.moved()
        if moved.replan:
            self._replan()
        if self.tuners is not None:
            self._retune(self.tuners, now, moved=moved.retune)

    def _replan(self) -> None:
        message, token, draft = self.monitor.message_s, self.monitor.token_s, self.monitor.draft_s
        if message is None or token is None or draft is None:
            return
        self.planner.learn(message * US, token * US, draft * US)
        log.info(
            "upload planner: costs are %.2f ms a message, %.3f ms a token on the link, %.2f ms a drafted token",
            1000 * message,
            1000 * token,
            1000 * draft,
        )

    def _retune(self, tuners: Tuners, now: float, *, moved: bool) -> None:
        if not -COSTS_EVERY_S < self._costs_at - now <= 0 and (costs := self._costs()) is not None:
            self._costs_at = now
            tuners.costs(costs)
        state = tuners.state, None if self.auto is None else self.auto.strategy
        if state != self._state:
            self._state, self._changed_at = state, self.monitor.totals.tokens
        if moved and self.monitor.totals.tokens - self._changed_at >= SETTLED:
            tuners.moved("time per token is another one")

    def _costs(self) -> PipelineCosts | None:
        monitor = self.monitor
        draft, trip, step = monitor.draft_s, monitor.rtt_s, monitor.verifying.base_s
        if draft is None or trip is None or step is None:
            return None
        step += monitor.verifying.queue_s or 0.0
        row, message, token = monitor.verifying.row_s, monitor.message_s or 0.0, monitor.token_s or 0.0
        return PipelineCosts(draft, trip, step, row, message, token)


class ControllerObserver(NullObserver):
    """Tells the controller when to look at what the monitor has measured; the last of a session's observers."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:  # noqa: ARG002
        self._controller.opened()

    def decided(self, decision: Decision, now: float) -> None:  # noqa: ARG002
        self._controller.decided(now)
