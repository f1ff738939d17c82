"""What the agent knows of its own speed: link, drafter, target, acceptance, time per token (architecture §6).

One `Monitor` per agent; each session has a `Watch` of it (`monitor.watch()`), also where many run side by side, since
they share drafter and link. Pure: sizes and clock readings in, figures out.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.telemetry.acceptance import Acceptance, Bin
from pipesd_agent.telemetry.arrivals import Arrivals
from pipesd_agent.telemetry.change import Change
from pipesd_agent.telemetry.frames import Frames
from pipesd_agent.telemetry.rolling import Rolling
from pipesd_agent.telemetry.target import Verifying
from pipesd_agent.telemetry.uplink import HEADER_BYTES, Occupancy, Uplink
from pipesd_agent.telemetry.windows import Window, Windows
from pipesd_core.protocol.messages import Draft, EdgeMessage, Open, Opened, Reason, Resume, Verdict

TOKENS: Final = 100
"""Drafted tokens that gamma is the mean of."""
LENGTHS: Final = 100
TPT_WINDOWS: Final = 4
"""Windows that TPT is compared by."""
LEAST_GAMMA_S: Final = 5e-4
LEAST_ALPHA_S: Final = 5e-4
LEAST_BETA_S: Final = 5e-5
"""Moves of gamma, alpha and beta below these change no plan."""
SPIKE: Final = 5.0
"""Times gamma: a forward that took longer was held up by something else, and counts as that."""


class Moved(Struct, frozen=True):
    """What has moved since it was last asked for. replan: gamma, alpha or beta; retune: time per token."""

    replan: bool
    retune: bool


class Totals(Struct):
    """Since the start, of all sessions. sent: drafts, repeated ones again; accepted: sent ones that were right."""

    sessions: int = 0
    tokens: int = 0
    drafted: int = 0
    sent: int = 0
    accepted: int = 0
    navs: int = 0
    forwards: int = 0
    rollbacks: int = 0


class MonitorFigures(Struct, frozen=True):
    """What is known now; None: not known yet. Seconds.

    alpha_s, beta_s: the uplink is busy with a draft message of n tokens for alpha + beta * n; both 0.0 where that
    cannot be told from nothing, None before the gateway's stamps have told anything. gamma_s: of a drafted token.
    rtt_s: of a message that need not wait for anything, there and back. verify_s: of a step without drafts, and what
    each draft adds; queue_s: what a step waits for others. acceptance: share of judged drafts, then by confidence.
    window: time and NAVs per token of the last few windows.
    """

    alpha_s: float | None
    beta_s: float | None
    gamma_s: float | None
    rtt_s: float | None
    verify_base_s: float | None
    verify_row_s: float
    queue_s: float | None
    acceptance: float | None
    by_confidence: tuple[Bin, ...]
    mean_length: float | None
    window: Window | None
    totals: Totals


class Monitor:
    """The agent's. How to drive it:

    * give each session `monitor.watch()` as the watch of its `Policies`; that is all of the input;
    * `moved()` after verdicts (it is cheap): `replan` says that a plan by alpha, beta and gamma is out of date (the
      first time: that they are known), `retune` that time per token is another one. Asking takes note;
    * `uplink.occupancy`, `alpha_s`, `beta_s`, `gamma_s`, `rtt_s`, `verifying`, `acceptance`, `windows`, `lengths`
      are cheap to read at any time, `figures()` is all of it.

    header_bytes: of each message on the link beyond the size that `Watch.sent` tells.
    """

    def __init__(self, header_bytes: float = HEADER_BYTES) -> None:
        self.uplink = Uplink(header_bytes)
        self.frames = Frames()
        self.verifying = Verifying()
        self.acceptance = Acceptance()
        self.windows = Windows(self._window)
        self.lengths: deque[int] = deque(maxlen=LENGTHS)
        """Drafts of the last NAVs, each counted from the NAV or rollback before it."""
        self.totals = Totals()
        self._gamma = Rolling(TOKENS)
        self._most_gamma = math.inf
        self._rtt = Rolling(20)
        self._heard = False
        self._tpt = Rolling(16)
        self._gamma_change = Change(LEAST_GAMMA_S)
        self._alpha_change = Change(LEAST_ALPHA_S)
        self._beta_change = Change(LEAST_BETA_S)
        self._tpt_change = Change()
        self._replan = self._retune = False

    def watch(self) -> SessionWatch:
        """Of a new session."""
        return SessionWatch(self)

    @property
    def gamma_s(self) -> float | None:
        """Seconds a drafted token, the mean of the last 100. None: none was measured yet."""
        return self._gamma.mean

    @property
    def alpha_s(self) -> float | None:
        """Seconds that the uplink is busy with a draft message besides its tokens."""
        return self._alpha_beta(self.uplink.occupancy)[0] if self._heard else None

    @property
    def beta_s(self) -> float | None:
        """Seconds that the uplink is busy with each token of a draft message."""
        return self._alpha_beta(self.uplink.occupancy)[1] if self._heard else None

    @property
    def rtt_s(self) -> float | None:
        """Least of the last 20 NAVs: from the socket here to the gateway and back, without waiting of any kind."""
        least = self._rtt.least
        return None if least is None else max(0.0, least)

    def moved(self) -> Moved:
        """What has moved since the last call."""
        moved = Moved(self._replan, self._retune)
        self._replan = self._retune = False
        return moved

    def figures(self) -> MonitorFigures:
        """All of it, now."""
        return MonitorFigures(
            alpha_s=self.alpha_s,
            beta_s=self.beta_s,
            gamma_s=self.gamma_s,
            rtt_s=self.rtt_s,
            verify_base_s=self.verifying.seconds(1),
            verify_row_s=self.verifying.row_s,
            queue_s=self.verifying.queue_s,
            acceptance=self.acceptance.rate,
            by_confidence=self.acceptance.bins,
            mean_length=sum(self.lengths) / len(self.lengths) if self.lengths else None,
            window=self.windows.mean(TPT_WINDOWS),
            totals=replace(self.totals),
        )

    # For its watches.

    def drafted(self, seconds: float) -> None:
        self.totals.drafted += 1
        if seconds <= 0.0:
            return
        gamma = self._gamma
        gamma.add(min(seconds, self._most_gamma))
        if gamma.added % 10 == 0 and (mean := gamma.mean) is not None:
            self._most_gamma = SPIKE * mean
            self._replan |= self._gamma_change.moved(mean, gamma.error)

    def heard(self) -> None:
        """The gateway has told of arrivals."""
        self._heard = True
        occupancy = self.uplink.occupancy
        alpha, beta = self._alpha_beta(occupancy)
        spread = occupancy.spread
        self._replan |= self._alpha_change.moved(alpha, spread * alpha)
        self._replan |= self._beta_change.moved(beta, spread * beta)

    def travelled(self, seconds: float) -> None:
        self._rtt.add(seconds)

    def _alpha_beta(self, occupancy: Occupancy) -> tuple[float, float]:
        """Of draft messages."""
        frames = self.frames
        return occupancy.message_s + occupancy.byte_s * frames.empty_bytes, occupancy.byte_s * frames.token_bytes

    def _window(self, window: Window) -> None:
        self._tpt.add(window.tpt_s)
        if len(self._tpt) < TPT_WINDOWS:
            return
        last = self._tpt.values()[-TPT_WINDOWS:]
        mean = sum(last) / len(last)
        error = max(self._tpt.deviation, 0.05 * mean) / math.sqrt(len(last))
        first = self._tpt_change.noted is None
        self._retune |= self._tpt_change.moved(mean, error) and not first


class SessionWatch:
    """Of one session; see `policies.Watch`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._arrivals = Arrivals(monitor.uplink)
        self._last_verdict: float | None = None
        self._sent_end = 0
        """Position after the last draft sent of the epoch."""
        self._wished: int | None = None
        """Highest position that a wish is out for."""
        self._timed = False
        """The first wish since none was out is being timed: the gateway had nothing else to do for the session."""

    def opened(self, opened: Opened, now: float) -> None:  # noqa: ARG002
        self._monitor.totals.sessions += 1

    def drafted(self, token: DraftToken, now: float) -> None:  # noqa: ARG002
        self._monitor.drafted(token.seconds)

    def wished(self, drafts: int, now: float) -> None:  # noqa: ARG002
        self._monitor.lengths.append(drafts)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        arrivals = self._arrivals
        arrivals.sent(message, size, now)
        if isinstance(message, Draft):
            monitor, tokens = self._monitor, len(message.ids)
            monitor.frames.sent(tokens, size)
            monitor.totals.sent += tokens
            self._sent_end = message.start + tokens
            if message.wish is not None:
                if self._wished is None:
                    self._timed = True
                    arrivals.ask(arrivals.sent_upto)
                self._wished = max(message.verify_through or 0, self._wished or 0)
        elif isinstance(message, Open | Resume):
            self._wished, self._timed = None, False

    def judged(self, token: DraftToken, right: bool, now: float) -> None:  # noqa: ARG002
        self._monitor.acceptance.judged(token.confidence, right)
        self._monitor.totals.accepted += right and token.position < self._sent_end

    def decided(self, verdict: Verdict, now: float) -> None:
        monitor, totals, nav = self._monitor, self._monitor.totals, verdict.reason is Reason.NAV
        if self._arrivals.told(verdict):
            monitor.heard()
        monitor.verifying.stepped(verdict.verified + 1, verdict.forward_us, verdict.queue_us)
        totals.tokens += len(verdict.tokens)
        totals.forwards += 1
        totals.navs += nav
        if self._timed:
            self._timed = False
            if nav:
                self._travelled(verdict, now)
        if self._wished is not None and verdict.start + len(verdict.tokens) > self._wished:
            self._wished = None
        if self._last_verdict is not None:
            monitor.windows.add(
                len(verdict.tokens),
                now - self._last_verdict,
                nav=nav,
                verified=verdict.verified,
                accepted=verdict.accepted,
            )
        self._last_verdict = now

    def discarded(self, now: float) -> None:  # noqa: ARG002
        self._monitor.totals.rollbacks += 1
        self._sent_end = 0
        self._wished = None

    def ended(self, now: float) -> None:
        pass

    def _travelled(self, verdict: Verdict, now: float) -> None:
        """The verdict of the NAV that is timed: where its message's arrival is known, the rest was the way back."""
        arrival = self._arrivals.answer
        if arrival is not None:
            at_gateway = (verdict.queue_us + verdict.forward_us) * 1e-6
            self._monitor.travelled(now - arrival - at_gateway + self._monitor.uplink.constant)
