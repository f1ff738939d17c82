"""Decisions as a session tells them, made of verdicts by themselves."""

from __future__ import annotations

from pipesd_agent.session.observer import Decision, SessionObserver
from pipesd_core.protocol.messages import Verdict


class Decider:
    """Tells an observer of verdicts, all of whose tokens are new and were not drafted."""

    def __init__(self, observer: SessionObserver) -> None:
        self._observer = observer
        self._last: float | None = None

    def decided(self, verdict: Verdict, now: float) -> None:
        """As the session does when the verdict comes."""
        interval_s = None if self._last is None else now - self._last
        self._last = now
        self._observer.decided(Decision(verdict, verdict.tokens, (False,) * len(verdict.tokens), interval_s), now)
