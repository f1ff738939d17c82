"""The control plane: what is measured of all sessions goes to what steers all sessions (architecture §6).

    what sessions do ──▶ Monitor ──▶ Planner (when to send), Tuners (R1, R2), Calibration (how sure a draft is)
                    └──▶ ModeSelector (decoding strategy)

One `Controller` per agent; `policies` is what a session gets of it. It has no clock and does no I/O: everything happens
while a session tells its watch something.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from pipesd_agent.control.calibration import CalibratedTrigger, Calibration
from pipesd_agent.control.figures import ControlFigures, Pairs
from pipesd_agent.control.mode import ModeSelector
from pipesd_agent.control.triggers import TriggerSettings
from pipesd_agent.control.upload_planner import Planner
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.policies import Collaborative, Policies
from pipesd_agent.telemetry.monitor import TPT_WINDOWS, Monitor
from pipesd_agent.telemetry.monitor import SessionWatch as MonitorWatch
from pipesd_agent.tuning.optimizers.choice import OptimizerName
from pipesd_agent.tuning.per_sampling import Tuners
from pipesd_agent.tuning.recorder import Tape
from pipesd_agent.tuning.replay import PipelineCosts
from pipesd_core.protocol.messages import EdgeMessage, Opened, Verdict

log = logging.getLogger(__name__)

US: Final = 1e6
SETTLED: Final = 2 * TPT_WINDOWS * 100
"""Output tokens after a change of ours before time per token says anything about the world again."""
COSTS_EVERY_S: Final = 1.0
"""How often the tuners are told what things cost."""


class Controller:
    """Of one agent.

    Args:
        trigger: its kind, and where tuning begins.
        planner: of batches.
        auto: of modes; None: sessions draft whenever they can.
        tuners: of `dual`'s thresholds; None: they stay. optimizer: what their studies use.
        mode: what it was told to do, where `auto` is None.
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
        """By whether answers are sampled (temperature above 0)."""
        self._trigger = trigger
        self._mode = mode
        self._gateway = gateway
        self._costs_at = -COSTS_EVERY_S
        self._state: object = None
        self._changed_at = 0

    def policies(self) -> Policies:
        """Of a new session."""
        watch = SessionControl(self)
        mode = Collaborative() if self.auto is None else self.auto.session()
        return Policies(watch.trigger, self.planner.batcher(), watch, mode)

    def figures(self) -> ControlFigures:
        """What `/metrics` shows."""
        pairs: Pairs = {"fixed": (self._trigger.r1, self._trigger.r2)} if self._trigger.kind == "dual" else {}
        if self.tuners is not None:
            pairs = {text: (f.pair.r1, f.pair.r2) for text, f in self.tuners.figures().items()}
        auto = self.auto
        return ControlFigures(
            monitor=self.monitor.figures(),
            n_hat=self.planner.n_hat,
            plan=self.planner.plan,
            batcher=self.planner.name,
            trigger=self._trigger.kind,
            thresholds=pairs,
            optimizer=self._optimizer,
            mode=self._mode if auto is None else auto.strategy.label,
            mode_reason="told to be" if auto is None else auto.reason,
        )

    # For sessions.

    def session_trigger(self) -> tuple[CalibratedTrigger, Tape | None]:
        """The trigger of a new one, and what tells its tuner."""
        if self.tuners is None:
            return CalibratedTrigger(self._trigger.make()), None
        tuned, tape = self.tuners.session()
        return CalibratedTrigger(tuned), tape

    def opened(self) -> None:
        if self.tuners is not None:
            self.tuners.gateway(self._gateway())

    def decided(self, now: float) -> None:
        """A verdict has been taken note of."""
        moved = self.monitor.moved()
        if moved.replan:
            self._replan()
        if self.tuners is not None:
            self._retune(self.tuners, now, moved=moved.retune)

    def _replan(self) -> None:
        alpha, beta, gamma = self.monitor.alpha_s, self.monitor.beta_s, self.monitor.gamma_s
        if alpha is None or beta is None or gamma is None:
            return
        if self.planner.learn(alpha * US, beta * US, gamma * US):
            log.info(
                "plans are for alpha %.2f ms, beta %.3f ms, gamma %.2f ms now",
                1000 * alpha,
                1000 * beta,
                1000 * gamma,
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
        gamma, trip, step = monitor.gamma_s, monitor.rtt_s, monitor.verifying.base_s
        if gamma is None or trip is None or step is None:
            return None
        step += monitor.verifying.queue_s or 0.0
        row, alpha, beta = monitor.verifying.row_s, monitor.alpha_s or 0.0, monitor.beta_s or 0.0
        return PipelineCosts(gamma, trip, step, row, alpha, beta)


class SessionControl:
    """A session's `Watch`: tells the monitor, the planner, the calibration and the tuner what concerns them.

    The tuner sees confidences as the trigger does, calibrated: its thresholds are of those."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._monitor: MonitorWatch = controller.monitor.watch()
        self.trigger, self._tape = controller.session_trigger()
        self._calibration: Calibration | None = None

    def opened(self, opened: Opened, now: float) -> None:
        self._calibration = self._controller.calibrations[opened.params.temperature > 0]
        self.trigger.begin(self._calibration)
        self._controller.opened()
        self._monitor.opened(opened, now)
        if self._tape is not None:
            self._tape.opened(opened, now)

    def drafted(self, token: DraftToken, now: float) -> None:
        self._monitor.drafted(token, now)
        if self._tape is not None:
            self._tape.drafted(self._calibrated(token), now)

    def wished(self, drafts: int, now: float) -> None:
        self._monitor.wished(drafts, now)
        self._controller.planner.wished(drafts, now)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        self._monitor.sent(message, size, now)
        self._controller.planner.sent(message, size, now)

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        self._monitor.judged(token, right, now)
        if self._tape is not None:
            self._tape.judged(self._calibrated(token), right, now)
        if self._calibration is not None:
            self._calibration.judged(token, right)

    def decided(self, verdict: Verdict, now: float) -> None:
        self._monitor.decided(verdict, now)
        if self._tape is not None:
            self._tape.decided(verdict, now)
        self._controller.decided(now)

    def discarded(self, now: float) -> None:
        self._monitor.discarded(now)
        if self._tape is not None:
            self._tape.discarded(now)

    def ended(self, now: float) -> None:
        self._monitor.ended(now)
        if self._tape is not None:
            self._tape.ended(now)

    def _calibrated(self, token: DraftToken) -> DraftToken:
        return token if self._calibration is None else self._calibration.calibrated(token)
