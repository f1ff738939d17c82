"""The event stream of a session: what it tells, as it happens, to whoever measures, learns or records."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_core.protocol.messages import EdgeMessage, Opened, Verdict


class Decision(Struct, frozen=True):
    """What a verdict decided.

    tokens: newly committed ids; after a handoff fewer than the verdict has. accepted: for each, whether it was drafted,
    sent and right. rejected: they contradict the drafts, which are discarded. interval_s: seconds since the session's
    last decision; None: this is its first.
    """

    verdict: Verdict
    tokens: tuple[int, ...]
    accepted: tuple[bool, ...]
    rejected: bool
    interval_s: float | None


class SessionObserver(Protocol):
    """Receives the events of one session, in order. Implementations must be cheap.

    now: the session's clock, in seconds.
    """

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:
        """The gateway has accepted the request; once a session. counts: the session's own, which go on."""

    def drafted(self, token: DraftToken, now: float) -> None:
        """The token joined the draft window, with its calibrated confidence."""

    def verification_requested(self, drafts: int, now: float) -> None:
        """A draft message asked for a verification, `drafts` >= 1 tokens after the one before or the last discard."""

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        """The message was handed to the socket as `size` bytes, headers included. Called by the link, not the session.

        What lies in the socket's buffer before it is not known.
        """

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        """The target has decided the position of a drafted token; tokens after the first wrong one are not judged."""

    def discarded(self, now: float) -> None:
        """The target contradicted the drafts: the window is empty, and the epoch is a new one."""

    def decided(self, decision: Decision, now: float) -> None:
        """Tokens are committed, after the `judged` and `discarded` calls that they cause."""

    def ended(self, now: float) -> None:
        """Nothing more will come; once a session, also where it was never opened. Called by the link."""


class NullObserver:
    """An observer that ignores all events; a base for those that want some."""

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:
        pass

    def drafted(self, token: DraftToken, now: float) -> None:
        pass

    def verification_requested(self, drafts: int, now: float) -> None:
        pass

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        pass

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        pass

    def discarded(self, now: float) -> None:
        pass

    def decided(self, decision: Decision, now: float) -> None:
        pass

    def ended(self, now: float) -> None:
        pass


class Observers:
    """Several observers of one session, each told every event, in their order."""

    def __init__(self, *observers: SessionObserver) -> None:
        self._observers = observers

    def opened(self, opened: Opened, counts: Counts, now: float) -> None:
        for observer in self._observers:
            observer.opened(opened, counts, now)

    def drafted(self, token: DraftToken, now: float) -> None:
        for observer in self._observers:
            observer.drafted(token, now)

    def verification_requested(self, drafts: int, now: float) -> None:
        for observer in self._observers:
            observer.verification_requested(drafts, now)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        for observer in self._observers:
            observer.sent(message, size, now)

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        for observer in self._observers:
            observer.judged(token, right, now)

    def discarded(self, now: float) -> None:
        for observer in self._observers:
            observer.discarded(now)

    def decided(self, decision: Decision, now: float) -> None:
        for observer in self._observers:
            observer.decided(decision, now)

    def ended(self, now: float) -> None:
        for observer in self._observers:
            observer.ended(now)
