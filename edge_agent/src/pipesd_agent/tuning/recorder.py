"""What the tuner learns from: one session's judged drafts, and how long its verifications took (architecture §6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_agent.session.observer import Decision, NullObserver
from pipesd_agent.tuning.replay import Judged
from pipesd_agent.tuning.thresholds import TunedTrigger
from pipesd_agent.tuning.tuner import STRETCH, Stretch, Tuner
from pipesd_core.protocol.messages import Opened, Reason

KEPT_DISCARDED: Final = 16
"""Drafts after a wrong one that are kept."""


class DraftRecorder(NullObserver):
    """Observer of a session, for its tuner.

    It gives the session's trigger the thresholds of the tuner for its kind of text, and that tuner a `Stretch` of every
    STRETCH tokens or so, and of what is left at the end. Time counts from one decision to the next that a verification
    led to: neither the prompt nor free runs are in it.

    tuners: by whether answers are sampled (temperature above 0).
    """

    def __init__(self, tuners: Mapping[bool, Tuner], trigger: TunedTrigger) -> None:
        self._tuners = tuners
        self._trigger = trigger
        self._tuner = tuners[False]
        self._window: deque[DraftToken] = deque()
        self._judged: list[Judged] = []
        self._begin()

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:  # noqa: ARG002
        self._tuner = self._tuners[opened.params.temperature > 0]
        self._trigger.thresholds = self._tuner.thresholds
        self._begin()

    def drafted(self, token: DraftToken, now: float) -> None:  # noqa: ARG002
        self._window.append(token)

    def judged(self, token: DraftToken, right: bool, now: float) -> None:  # noqa: ARG002
        while self._window and self._window[0].position <= token.position:
            self._window.popleft()
        discarded = (
            () if right else tuple(one.confidence for one, _ in zip(self._window, range(KEPT_DISCARDED), strict=False))
        )
        self._judged.append(Judged(token.confidence, right, discarded))

    def discarded(self, now: float) -> None:  # noqa: ARG002
        self._window.clear()

    def decided(self, decision: Decision, now: float) -> None:  # noqa: ARG002
        if decision.verdict.reason is Reason.VERIFICATION and decision.interval_s is not None:
            self._text += self._judged
            self._tokens += len(decision.tokens)
            self._seconds += decision.interval_s
            self._verifications += 1
            if self._tokens >= STRETCH or self._tuner.thresholds.version != self._version:
                self._end()
        else:
            self._end()
            if self._judged:
                self._tuner.stretch(Stretch(self._pair, 0, 0.0, 0, tuple(self._judged)))
        self._judged = []

    def ended(self, now: float) -> None:  # noqa: ARG002
        self._end()

    def _begin(self) -> None:
        self._pair = self._tuner.thresholds.pair
        self._version = self._tuner.thresholds.version
        self._text: list[Judged] = []
        self._tokens = self._verifications = 0
        self._seconds = 0.0

    def _end(self) -> None:
        if self._tokens:
            self._tuner.stretch(
                Stretch(self._pair, self._tokens, self._seconds, self._verifications, tuple(self._text))
            )
        self._begin()
