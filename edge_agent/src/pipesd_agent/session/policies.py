"""What steers one session, and what it tells of itself: the seam between `session` and everything that decides and
measures (architecture §6). The same objects run in real and in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipesd_agent.control.batchers import Batcher
from pipesd_agent.control.triggers import Trigger, TriggerSettings
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.protocol.messages import EdgeMessage, Opened, Verdict


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


def fixed(trigger: TriggerSettings, batcher: str, mode: Callable[[], Mode] = Collaborative) -> MakePolicies:
    """Trigger and batcher that nothing changes, and that know no costs. Raises ConfigError for an unknown batcher."""
    from pipesd_agent.control.upload_planner import Planner  # numpy, which a configuration needs not

    planner = Planner(batcher)
    return lambda: Policies(trigger.make(), planner.batcher(), mode=mode())
