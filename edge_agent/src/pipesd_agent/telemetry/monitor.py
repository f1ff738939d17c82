"""What the agent knows of its own speed: link, drafter, target, acceptance, time per token (architecture §6).

One `Monitor` per agent; each session has an observer of it (`monitor.observer()`), also where many run side by side,
since they share drafter and link. Pure: sizes and clock readings in, figures out.
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import Decision, NullObserver
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
"""Drafted tokens that the time of one is the mean of."""
TPOT_WINDOWS: Final = 4
"""Windows that the time per output token is compared by."""
LEAST_DRAFT_S: Final = 5e-4
LEAST_MESSAGE_S: Final = 5e-4
LEAST_TOKEN_S: Final = 5e-5
"""Moves of these costs, in seconds, that change no plan."""
SPIKE: Final = 5.0
"""Times the mean: a forward that took longer was held up by something else, and counts as that."""


class Moved(Struct, frozen=True):
    """What has moved since it was last asked for.

    replan: what a message, a token on the link or a drafted token costs. retune: time per token.
    """

    replan: bool
    retune: bool


class MonitorFigures(Struct, frozen=True):
    """What is known now; None: not known yet. Seconds.

    message_s, token_s: the uplink is busy with a draft message of n tokens for message_s + token_s * n; both 0.0 where
    that cannot be told from nothing, None before the gateway has reported an arrival. draft_s: of a drafted token.
    rtt_s: of a message that need not wait for anything, there and back. verify_base_s: of a step without drafts;
    verify_row_s: what each draft adds; queue_s: what a step waits for others. acceptance: share of judged drafts, then
    by calibrated confidence. window: time and verifications per token of the last few windows. sessions: opened since
    the start; totals: the counts of all of them together.
    """

    message_s: float | None
    token_s: float | None
    draft_s: float | None
    rtt_s: float | None
    verify_base_s: float | None
    verify_row_s: float
    queue_s: float | None
    acceptance: float | None
    by_confidence: tuple[Bin, ...]
    window: Window | None
    sessions: int
    totals: Counts


class Monitor:
    """What one agent measures. How to drive it:

    * give each session `monitor.observer()` as an observer; that is all of the input;
    * `moved()` after verdicts (it is cheap): `replan` says that a plan by these costs is out of date (the
      first time: that they are known), `retune` that time per token is another one. Asking takes note;
    * `uplink.occupancy`, `message_s`, `token_s`, `draft_s`, `rtt_s`, `verifying`, `acceptance`, `windows` are
       cheap to read at any time, `figures()` is all of it.

    header_bytes: of each message on the link beyond the size that `SessionObserver.sent` tells.
    """

    def __init__(self, header_bytes: float = HEADER_BYTES) -> None:
        self.uplink = Uplink(header_bytes)
        self.frames = Frames()
        self.verifying = Verifying()
        self.acceptance = Acceptance()
        self.windows = Windows(self._window)
        self.sessions = 0
        """Opened since the start."""
        self._ended = Counts()
        """Counts of the sessions that have ended."""
        self._running: list[Counts] = []
        self._draft = Rolling(TOKENS)
        self._most_draft_s = math.inf
        self._rtt = Rolling(20)
        self._link_measured = False
        self._tpot = Rolling(16)
        self._draft_change = Change(LEAST_DRAFT_S)
        self._message_change = Change(LEAST_MESSAGE_S)
        self._token_change = Change(LEAST_TOKEN_S)
        self._tpot_change = Change()
        self._replan = self._retune = False

    def observer(self) -> MonitorObserver:
        """The observer of a new session."""
        return MonitorObserver(self)

    @property
    def totals(self) -> Counts:
        """The counts of all sessions since the start, those that run included."""
        totals = Counts()
        for counts in (self._ended, *self._running):
            totals.add(counts)
        return totals

    @property
    def draft_s(self) -> float | None:
        """Seconds a drafted token, the mean of the last 100. None: none was measured yet."""
        return self._draft.mean

    @property
    def message_s(self) -> float | None:
        """Seconds that the uplink is busy with a draft message besides its tokens."""
        return self._message_and_token_s(self.uplink.occupancy)[0] if self._link_measured else None

    @property
    def token_s(self) -> float | None:
        """Seconds that the uplink is busy with each token of a draft message."""
        return self._message_and_token_s(self.uplink.occupancy)[1] if self._link_measured else None

    @property
    def rtt_s(self) -> float | None:
        """Seconds to the gateway and back without waiting of any kind, the least of the last 20 verifications."""
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
            message_s=self.message_s,
            token_s=self.token_s,
            draft_s=self.draft_s,
            rtt_s=self.rtt_s,
            verify_base_s=self.verifying.seconds(1),
            verify_row_s=self.verifying.row_s,
            queue_s=self.verifying.queue_s,
            acceptance=self.acceptance.rate,
            by_confidence=self.acceptance.bins,
            window=self.windows.mean(TPOT_WINDOWS),
            sessions=self.sessions,
            totals=self.totals,
        )

    # For its observers.

    def opened(self, counts: Counts) -> None:
        """A session begins to count."""
        self.sessions += 1
        self._running.append(counts)

    def ended(self, counts: Counts) -> None:
        """It has ended."""
        self._running = [running for running in self._running if running is not counts]
        self._ended.add(counts)

    def drafted(self, seconds: float) -> None:
        """A token was drafted in so many seconds; 0: it is not known."""
        if seconds <= 0.0:
            return
        drafting = self._draft
        drafting.add(min(seconds, self._most_draft_s))
        if drafting.added % 10 == 0 and (mean := drafting.mean) is not None:
            self._most_draft_s = SPIKE * mean
            self._replan |= self._draft_change.moved(mean, drafting.error)

    def link_measured(self) -> None:
        """Take note that the gateway has reported arrivals."""
        self._link_measured = True
        occupancy = self.uplink.occupancy
        message_s, token_s = self._message_and_token_s(occupancy)
        spread = occupancy.spread
        self._replan |= self._message_change.moved(message_s, spread * message_s)
        self._replan |= self._token_change.moved(token_s, spread * token_s)

    def travelled(self, seconds: float) -> None:
        self._rtt.add(seconds)

    def _message_and_token_s(self, occupancy: Occupancy) -> tuple[float, float]:
        """Seconds that the uplink is busy with a draft message, and with each token in it."""
        frames = self.frames
        return occupancy.message_s + occupancy.byte_s * frames.empty_bytes, occupancy.byte_s * frames.token_bytes

    def _window(self, window: Window) -> None:
        self._tpot.add(window.tpot_s)
        if len(self._tpot) < TPOT_WINDOWS:
            return
        last = self._tpot.values()[-TPOT_WINDOWS:]
        mean = sum(last) / len(last)
        error = max(self._tpot.deviation, 0.05 * mean) / math.sqrt(len(last))
        first = self._tpot_change.noted is None
        self._retune |= self._tpot_change.moved(mean, error) and not first


class MonitorObserver(NullObserver):
    """What the monitor learns from one session."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._arrivals = Arrivals(monitor.uplink)
        self._counts: Counts | None = None
        self._requested: int | None = None
        """Highest position that a verification is asked for and not decided."""
        self._timed = False
        """The first request since none was pending is being timed: the gateway had nothing else to do for the
        session."""

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:  # noqa: ARG002
        self._counts = counts
        self._monitor.opened(counts)

    def drafted(self, token: DraftToken, now: float) -> None:  # noqa: ARG002
        self._monitor.drafted(token.seconds)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        arrivals = self._arrivals
        arrivals.sent(message, size, now)
        if isinstance(message, Draft):
            self._monitor.frames.sent(len(message.ids), size)
            if message.wish is not None:
                if self._requested is None:
                    self._timed = True
                    arrivals.ask(arrivals.sent_upto)
                self._requested = max(message.verify_through or 0, self._requested or 0)
        elif isinstance(message, Open | Resume):
            self._requested, self._timed = None, False

    def judged(self, token: DraftToken, right: bool, now: float) -> None:  # noqa: ARG002
        self._monitor.acceptance.judged(token.confidence, right)

    def discarded(self, now: float) -> None:  # noqa: ARG002
        self._requested = None

    def decided(self, decision: Decision, now: float) -> None:
        monitor, verdict = self._monitor, decision.verdict
        by_request = verdict.reason is Reason.VERIFICATION
        if self._arrivals.reported(verdict):
            monitor.link_measured()
        monitor.verifying.stepped(verdict.verified + 1, verdict.forward_us, verdict.queue_us)
        if self._timed:
            self._timed = False
            if by_request:
                self._travelled(verdict, now)
        if self._requested is not None and verdict.start + len(verdict.tokens) > self._requested:
            self._requested = None
        if decision.interval_s is not None:
            monitor.windows.add(
                len(decision.tokens),
                decision.interval_s,
                verification=by_request,
                verified=verdict.verified,
                accepted=verdict.accepted,
            )

    def ended(self, now: float) -> None:  # noqa: ARG002
        if self._counts is not None:
            self._monitor.ended(self._counts)

    def _travelled(self, verdict: Verdict, now: float) -> None:
        """Time the verification: where its message's arrival is known, the rest was the way back."""
        arrival = self._arrivals.answer
        if arrival is not None:
            at_gateway = (verdict.queue_us + verdict.forward_us) * 1e-6
            self._monitor.travelled(now - arrival - at_gateway + self._monitor.uplink.constant)
