"""Decisions as a session tells them, made of verdicts by themselves."""

from __future__ import annotations

from pipesd_agent.session.observer import Decision, SessionObserver
from pipesd_core.protocol.messages import Verdict


def decision(verdict: Verdict, interval_s: float | None, *, rejected: bool = False) -> Decision:
    """What a verdict decides, all of whose tokens are new and were not drafted."""
    return Decision(verdict, verdict.tokens, (False,) * len(verdict.tokens), rejected, interval_s)


class Decider:
    """Tells an observer of verdicts; see `decision`."""

    def __init__(self, observer: SessionObserver) -> None:
        self._observer = observer
        self._last: float | None = None

    def decided(self, verdict: Verdict, now: float) -> None:
        """As the session does when the verdict comes."""
        interval_s = None if self._last is None else now - self._last
        self._last = now
        self._observer.decided(decision(verdict, interval_s), now)
