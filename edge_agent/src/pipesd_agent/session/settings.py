"""The settings of sessions: the `[session]` table of the agent's configuration."""

from __future__ import annotations

from msgspec import Struct

from pipesd_core.protocol.messages import FOREVER
from pipesd_core.service.settings import within


class SessionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one session.

    window: drafted tokens after the committed ones, at most; in bench/proving/methods/defaults.py more than 16 saved
    few target forwards and doubled the rejected drafts. verification_timeout_s: how long a verification may stay
    without any verdict before the target goes on alone. silence_timeout_s: how long the gateway may send nothing at all
    (waiting in its queue included) before the request fails. grace_s: how long a lost link may stay away before the
    request fails; 0: not at all. free_start: tokens that the target writes by itself until the first draft is there, at
    most; one that is faster than the drafter then writes all of the answer. 1: the prompt's own step only. None: no
    limit.
    """

    window: int = 16
    verification_timeout_s: float = 4.0
    silence_timeout_s: float = 120.0
    grace_s: float = 30.0
    free_start: int | None = None

    def __post_init__(self) -> None:
        within("session.window", self.window, 1, 1024)
        within("session.verification_timeout_s", self.verification_timeout_s, 0.001, 3600)
        within("session.silence_timeout_s", self.silence_timeout_s, 0.001, 86_400)
        within("session.grace_s", self.grace_s, 0, 3600)
        if self.free_start is not None:
            within("session.free_start", self.free_start, 1, FOREVER)
