"""The ports of a session: what decides for it (architecture §6). `observer` has what it tells in return.

The same objects run in real and in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.observer import Decision, NullObserver, SessionObserver


class Trigger(Protocol):
    """Decides when the drafts so far are worth a verification."""

    def drafted(self, token: DraftToken) -> bool:
        """Take note of the next drafted token. True: verify now, this token included."""

    def reset(self) -> None:
        """Begin anew: a verification was asked for, or the drafts since the last one were discarded."""

    def verified(self, drafts: int, accepted: int) -> None:
        """Learn that a verification of `drafts` >= 1 drafts accepted the first `accepted`; before the reset that
        follows."""


class Batcher(Protocol):
    """Decides when drafts leave the device before a verification takes them all."""

    def due(self, unsent: int, now: float) -> bool:
        """Whether the `unsent` >= 1 drafts go now. Asked whenever the link can take a message."""

    def reset(self) -> None:
        """Begin a new plan: a verification was asked for, or the unsent drafts were discarded."""


class Calibrator(Protocol):
    """Corrects the drafter's confidence, once for each token that joins the window."""

    def calibrated(self, token: DraftToken) -> DraftToken:
        """The token with the confidence that trigger, mode and observers go by."""


class Mode(Protocol):
    """Decides where the target goes on by itself, undrafted: a *rest* of the drafter. The session asks it and obeys.

    An answer is a number of tokens from where the question says; FOREVER: until further notice, which is target-only.
    During a rest nothing is drafted or sent; the drafter learns what the target decides in batches. It begins again
    `lead` tokens before the end of a bounded rest, and at once when a later answer is 0: then the target goes on until
    the first draft is on its way. The last answer counts. Not asked in sessions without a drafter.
    """

    @property
    def lead(self) -> int:
        """Tokens before the end of a rest at which drafting begins again; 0 or more."""

    def opening(self, now: float) -> int:
        """Tokens from the prompt on; 0: draft. Asked once, before the session is opened.

        (It starts in a free run that the first draft ends.)
        """

    def decided(self, decision: Decision, now: float) -> int | None:
        """Tokens from the end of what is committed now; 0: draft; None: as before."""

    def drafted(self, token: DraftToken, now: float) -> int:
        """Tokens after this one, which joined the window and is verified first, with all before it; 0: draft on."""


class AlwaysDraft:
    """The mode that never rests."""

    lead = 0

    def opening(self, now: float) -> int:  # noqa: ARG002
        return 0

    def decided(self, decision: Decision, now: float) -> int | None:  # noqa: ARG002
        return None

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        return 0


class DrafterConfidence:
    """The calibrator that leaves the drafter's own confidence as it is."""

    def calibrated(self, token: DraftToken) -> DraftToken:
        return token


@dataclass(frozen=True)
class Policies:
    """The policies of one session, and who observes it."""

    trigger: Trigger
    batcher: Batcher
    observer: SessionObserver = field(default_factory=NullObserver)
    mode: Mode = field(default_factory=AlwaysDraft)
    calibrator: Calibrator = field(default_factory=DrafterConfidence)


MakePolicies = Callable[[], Policies]
