"""What steers one session, and what it tells of itself: the seam between `session` and everything that decides and
measures (architecture §6). The same objects run in real and in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.protocol.messages import EdgeMessage, Opened, Verdict


class Trigger(Protocol):
    """Decides when the drafts so far are worth a verification."""

    def drafted(self, token: DraftToken) -> bool:
        """Take note of the next drafted token. True: verify now, this token included."""

    def reset(self) -> None:
        """Start a new window: a NAV was sent, or the drafts since the last one were discarded."""

    def verified(self, drafts: int, accepted: int) -> None:
        """A verification of `drafts` >= 1 drafts accepted the first `accepted`. Comes before the reset for the rest."""


class Batcher(Protocol):
    """Decides when drafts leave the device before a verification takes them all."""

    def due(self, unsent: int, now: float) -> bool:
        """Send the `unsent` >= 1 drafts now? Asked whenever the link can take a message; they go if it says so."""

    def reset(self) -> None:
        """Start a new plan: a NAV was sent, or the unsent drafts were discarded."""


class Watch(Protocol):
    """Is told what one session does as it does it. `now`: the session's clock, in seconds. Must be cheap."""

    def opened(self, opened: Opened, now: float) -> None:
        """The gateway has accepted the request; once a session."""

    def drafted(self, token: DraftToken, now: float) -> None:
        """The token joined the window."""

    def wished(self, drafts: int, now: float) -> None:
        """A NAV was sent, `drafts` tokens after the one before or after the last rollback."""

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        """The message was handed to the socket as `size` bytes, headers included. Called by the link, not the session.

        What lies in the socket's buffer before it is not known.
        """

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        """The target has decided the position of a drafted token; tokens after the first wrong one are not judged."""

    def decided(self, verdict: Verdict, now: float) -> None:
        """A verdict came, after the `judged` calls that it causes; repeated ones are not told."""

    def discarded(self, now: float) -> None:
        """The target contradicted the window: it is empty, and the epoch is a new one."""

    def ended(self, now: float) -> None:
        """Nothing more will come; once a session, also where it was never opened."""


class Unwatched:
    """Nobody is told."""

    def opened(self, opened: Opened, now: float) -> None:
        pass

    def drafted(self, token: DraftToken, now: float) -> None:
        pass

    def wished(self, drafts: int, now: float) -> None:
        pass

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        pass

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        pass

    def decided(self, verdict: Verdict, now: float) -> None:
        pass

    def discarded(self, now: float) -> None:
        pass

    def ended(self, now: float) -> None:
        pass


class Watches:
    """Several watches of one session, told in their order."""

    def __init__(self, *watches: Watch) -> None:
        self._watches = watches

    def opened(self, opened: Opened, now: float) -> None:
        for watch in self._watches:
            watch.opened(opened, now)

    def drafted(self, token: DraftToken, now: float) -> None:
        for watch in self._watches:
            watch.drafted(token, now)

    def wished(self, drafts: int, now: float) -> None:
        for watch in self._watches:
            watch.wished(drafts, now)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        for watch in self._watches:
            watch.sent(message, size, now)

    def judged(self, token: DraftToken, right: bool, now: float) -> None:
        for watch in self._watches:
            watch.judged(token, right, now)

    def decided(self, verdict: Verdict, now: float) -> None:
        for watch in self._watches:
            watch.decided(verdict, now)

    def discarded(self, now: float) -> None:
        for watch in self._watches:
            watch.discarded(now)

    def ended(self, now: float) -> None:
        for watch in self._watches:
            watch.ended(now)


class Mode(Protocol):
    """Decides where the target goes on by itself, undrafted: a *rest* of the drafter. The session asks it and obeys.

    An answer is a number of tokens from where the question says; FOREVER: until further notice, which is cloud-only.
    During a rest nothing is drafted or sent; the drafter learns what the target decides in batches. It begins again
    `lead` tokens before the end of a bounded rest, and at once when a later answer is 0: then the target goes on until
    the first draft is on its way. The last answer counts. Not asked in sessions without a drafter.
    """

    @property
    def lead(self) -> int:
        """0 or more."""

    def opening(self, now: float) -> int:
        """From the prompt on; 0: draft. Once a session, before it is opened. (It starts in a free run that the first
        draft ends.)"""

    def decided(self, verdict: Verdict, now: float, *, rejected: bool) -> int | None:
        """From the end of what is committed now; 0: draft; None: as before. rejected: the window was discarded."""

    def drafted(self, token: DraftToken, now: float) -> int:
        """After this one, which joined the window and is verified first, with all before it; 0: go on drafting."""


class Collaborative:
    """Always."""

    lead = 0

    def opening(self, now: float) -> int:  # noqa: ARG002
        return 0

    def decided(self, verdict: Verdict, now: float, *, rejected: bool) -> int | None:  # noqa: ARG002
        return None

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        return 0


@dataclass(frozen=True)
class Policies:
    """Of one session."""

    trigger: Trigger
    batcher: Batcher
    watch: Watch = field(default_factory=Unwatched)
    mode: Mode = field(default_factory=Collaborative)


MakePolicies = Callable[[], Policies]
