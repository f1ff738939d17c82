"""The settings of sessions: the `[session]` table of the agent's configuration."""

from __future__ import annotations

import math

from msgspec import Struct

from pipesd_core.errors import ConfigError
from pipesd_core.protocol.messages import FOREVER


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
        if not 1 <= self.window <= 1024:
            raise ConfigError(f"window must lie between 1 and 1024 tokens, but is {self.window}")
        if not (0 < self.verification_timeout_s < math.inf and 0 < self.silence_timeout_s < math.inf):
            raise ConfigError(
                "verification_timeout_s and silence_timeout_s must be positive numbers of seconds, "
                f"but are {self.verification_timeout_s} and {self.silence_timeout_s}"
            )
        if not 0 <= self.grace_s < math.inf:
            raise ConfigError(f"grace_s must be a number of seconds, 0 or more, but is {self.grace_s}")
        if self.free_start is not None and not 1 <= self.free_start <= FOREVER:
            raise ConfigError(f"free_start must be a number of tokens, 1 or more, but is {self.free_start}")
