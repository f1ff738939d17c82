"""Cloud-only or collaborative? From what both were measured to cost (architecture §6, mode). Pure: no clock of its own.

One `AutoMode` per agent; `session()` gives the `Mode` of each of its sessions, through which it also measures: every
step of a free run that follows another one is a sample of what cloud-only costs, and every verdict of a session that
drafts one of what collaborative costs. Whoever owns it gives each session's to its `Policies`, and nothing else.

What is measured at no cost (the free run that every session starts in) need not be explored; else the side that is not
in use is tried now and then, for so long only, and so seldom, that it costs `EXPLORE` of the time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from pipesd_agent.drafting.types import DraftToken
from pipesd_gateway.protocol import FOREVER, Opened, Reason, Verdict

Objective = Literal["latency", "offload"]
BOUND: Final = 2.0
"""`offload`: collaborative while its time per token is at most so many times that of cloud-only."""
EXPLORE: Final = 0.012
"""Share of all time that trying the other side may cost, once both are known."""
HYSTERESIS: Final = 0.03
WINDOW: Final = 16
"""Tokens of a measurement."""
MEMORY: Final = 48
"""Measurements that count; older ones fade."""
RECENT: Final = 6
"""Measurements that tell that conditions moved,"""
MOVED: Final = 0.3
"""if they differ from the mean by this share of it, and by four of their standard errors."""
KNOWN: Final = 32
"""Tokens after which what was measured is believed."""
RUN: Final = 10
"""Tokens that cloud-only is tried for: steps of a target hardly differ."""
DRAFT: Final = 48
"""Tokens that collaborative is tried for."""
LOSS: Final = 24
"""Or until it has cost the time of so many tokens of cloud-only."""
SOON: Final = 128
LATE: Final = 4096
"""Tokens between two tries: while it is open which side is better, and at most."""
LEAD: Final = 4
GAP_S: Final = 2.0
"""Longer silences, far out of proportion, are a client that does not read or a link that is cut."""


class Cost:
    """Seconds per token of one side, over its last measurements.

    spread: what a text alone may make of a measurement, as a share of the mean: no sign that conditions moved."""

    def __init__(self, spread: float = 0.0) -> None:
        self._spread = spread
        self.seconds = 0.0
        self.tokens = 0.0
        self.squares = 0.0
        self.count = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)
        self._seconds = 0.0
        self._tokens = 0

    def add(self, seconds: float, tokens: int) -> bool:
        """Whether conditions have moved since what was known, which is forgotten then."""
        self._seconds += seconds
        self._tokens += tokens
        if self._tokens < WINDOW:
            return False
        sample = self._seconds / self._tokens
        moved = self._count_in(sample, self._seconds, self._tokens)
        self._seconds, self._tokens = 0.0, 0
        return moved

    def _count_in(self, sample: float, seconds: float, tokens: float) -> bool:
        self.recent.append(sample)
        now = sum(self.recent) / len(self.recent)
        usual = max(self.deviation, self._spread * self.mean)
        far = max(MOVED * self.mean, 4 * usual / math.sqrt(RECENT))
        if self.count > 2 * RECENT and abs(now - self.mean) > far:
            self.seconds, self.tokens = now * RECENT * WINDOW, float(RECENT * WINDOW)
            self.squares, self.count = sum(x * x for x in self.recent), float(len(self.recent))
            return True
        keep = 1 - 1 / MEMORY
        self.seconds = self.seconds * keep + seconds
        self.tokens = self.tokens * keep + tokens
        self.squares = self.squares * keep + sample * sample
        self.count = self.count * keep + 1
        return False

    @property
    def known(self) -> float:
        """Tokens that the mean is of."""
        return self.tokens + self._tokens

    @property
    def mean(self) -> float:
        """Seconds per token; 0: nothing is known."""
        return (self.seconds + self._seconds) / self.known if self.known else 0.0

    @property
    def deviation(self) -> float:
        """Standard deviation of a measurement; half of the mean while there are too few."""
        if self.count < RECENT:
            return self.mean / 2
        mean = self.seconds / self.tokens
        return math.sqrt(max(0.0, self.squares / self.count - mean * mean))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.deviation / math.sqrt(max(1.0, self.count))


@dataclass(frozen=True)
class Switch:
    """now: the sessions' clock, in seconds."""

    now: float
    collaborative: bool
    reason: str


class AutoMode:
    """Of all sessions of an agent.

    objective: `latency`, the least time per token; `offload`, collaborative unless that takes more than `bound` times
    as long as cloud-only. switched: is told of every change of mind.

    Attributes: collaborative: what is in use, `reason`: why. cloud, drafted: what the sides cost.
    """

    def __init__(
        self,
        objective: Objective = "latency",
        *,
        bound: float = BOUND,
        switched: Callable[[Switch], None] = lambda _: None,
    ) -> None:
        if bound < 1:
            raise ValueError(f"bound must be 1 or more, but is {bound}")
        self.factor = bound if objective == "offload" else 1.0
        self.collaborative = True
        self.reason = "nothing is measured yet"
        self.cloud = Cost()
        self.drafted = Cost(spread=0.5)
        self.tokens = 0
        """Of all sessions."""
        self.seconds = 0.0
        """Between verdicts, of all sessions."""
        self.spent = 0.0
        """Seconds that trying the other side has cost, on the way there and back included."""
        self._last_try = {True: 0.0, False: 0.0}
        """What the last one cost while collaborative, and while not."""
        self._switched = switched
        self._tried_at = 0
        """`tokens` when the side that is not in use was last measured, or began to be."""
        self._patience = SOON

    def session(self) -> SessionMode:
        """The mode of a new session."""
        return SessionMode(self)

    @property
    def lost(self) -> float:
        """What the drafting measured so far took beyond cloud-only, in tokens of that."""
        allowed = self.factor * self.cloud.mean
        return (self.drafted.mean / allowed - 1) * self.drafted.known if allowed else 0.0

    # For sessions.

    def measured(self, now: float, seconds: float, tokens: int, side: Cost | None) -> None:
        """A verdict came; side: what its time is a sample of."""
        self.tokens += tokens
        if side is not None and side.known >= KNOWN and seconds > max(GAP_S, 10 * side.mean * tokens):
            return
        self.seconds += seconds
        if side is None:
            return
        if side.add(seconds, tokens):
            self._patience = SOON
            self._tried_at = self.tokens - SOON  # what is known of the other side is of other conditions, too
        if side is self.cloud and self.collaborative and side.known >= RUN - 1:
            self._tried_at = max(self._tried_at, self.tokens - self._patience // 2)
        self._decide(now)

    def _decide(self, now: float) -> None:
        cloud, drafted = self.cloud, self.drafted
        if cloud.known < RUN - 2 or (drafted.known < KNOWN and self.lost < LOSS):
            return
        margin = 1 + HYSTERESIS if self.collaborative else 1 - HYSTERESIS
        collaborative = drafted.mean <= margin * self.factor * cloud.mean
        if collaborative is self.collaborative:
            return
        self.collaborative = collaborative
        self._patience = SOON
        self._tried_at = self.tokens
        self.reason = self._why()
        self._switched(Switch(now, collaborative, self.reason))

    def _why(self) -> str:
        limit = f", of which {self.factor:g} times as much is allowed" if self.factor > 1 else ""
        return (
            f"drafting takes {1000 * self.drafted.mean:.1f} ms a token, cloud-only {1000 * self.cloud.mean:.1f}{limit}"
        )

    def may_try(self) -> bool:
        """Is it time to see what the side that is not in use costs now? Then a try begins."""
        if self.cloud.known < RUN - 2:
            return self.collaborative and self.tokens >= self._tried_at
        used, other = (self.drafted, self.cloud) if self.collaborative else (self.cloud, self.drafted)
        doubt = 2 * math.hypot(used.error, self.factor * other.error if self.collaborative else other.error)
        open_question = abs(self.drafted.mean - self.factor * self.cloud.mean) < doubt
        wait = SOON if open_question and not self.collaborative else self._patience
        length = RUN if self.collaborative else DRAFT
        least = min((other.mean - used.mean) * length, LOSS * used.mean)
        expected = max(2 * LEAD * used.mean, least, self._last_try[self.collaborative])
        if self.tokens - self._tried_at < wait or self.spent + expected > EXPLORE * self.seconds:
            return False
        self._tried_at = self.tokens
        self._patience = min(LATE, 2 * self._patience)
        return True

    def tried(self, seconds: float, tokens: int, *, from_collaborative: bool) -> None:
        """A try is over; seconds, tokens: until the side in use was back at work."""
        used = self.drafted if from_collaborative else self.cloud
        self._last_try[from_collaborative] = cost = max(0.0, seconds - tokens * used.mean)
        self.spent += cost


class SessionMode:
    """A `policies.Mode`."""

    lead = LEAD

    def __init__(self, auto: AutoMode) -> None:
        self._auto = auto
        self._last: float | None = None
        self._last_ran = False
        """The last step was one of a free run, without drafts."""
        self._state: Literal["drafting", "resting", "trying to run", "trying to draft"] = "drafting"
        self._counting = False
        """Has a verification come since drafting began?"""
        self._trying = False
        """A try of drafting has not ended, or its way back."""
        self._try_tokens = self._try_drafted = 0
        self._try_seconds = 0.0

    def opened(self, opened: Opened, now: float) -> int:  # noqa: ARG002
        auto = self._auto
        if auto.collaborative:
            return self._try_running() if auto.cloud.known and auto.may_try() else 0
        if auto.may_try():
            self._begin_try("trying to draft")
            return 0
        self._state = "resting"
        return FOREVER

    def drafted(self, token: DraftToken, now: float) -> int:  # noqa: ARG002
        """A round that has taken too long already is cut short: what it costs is known then."""
        auto = self._auto
        trying = self._state == "trying to draft" or (self._state == "drafting" and auto.drafted.known < KNOWN)
        if not trying or self._last is None or auto.cloud.known < RUN - 2:
            return 0
        if now - self._last < LOSS * auto.factor * auto.cloud.mean:
            return 0
        self._state = "resting"
        return FOREVER

    def decided(self, verdict: Verdict, now: float, *, rejected: bool) -> int | None:  # noqa: ARG002
        self._measure(verdict, now)
        auto = self._auto
        match self._state:
            case "trying to draft":
                return self._drafting_tried()
            case "trying to run" if self._try_tokens < RUN or not self._counting:
                return None
            case "trying to run":
                auto.tried(self._try_seconds, self._try_tokens, from_collaborative=True)
                self._state = "drafting"
                return self._rest() if not auto.collaborative else None
            case "resting":
                if self._trying and self._last_ran:
                    self._trying = False
                    auto.tried(self._try_seconds, self._try_tokens, from_collaborative=False)
                if auto.collaborative:
                    self._state = "drafting"
                    self._counting = False
                    return 0
                if auto.may_try():
                    self._begin_try("trying to draft")
                    return 0
                return None
            case _:
                if not auto.collaborative:
                    return self._rest()
                return self._try_running() if self._counting and auto.may_try() else None

    def _measure(self, verdict: Verdict, now: float) -> None:
        auto, tokens = self._auto, len(verdict.tokens)
        ran = verdict.reason is not Reason.NAV and not verdict.verified
        if not ran and (self._state in ("drafting", "trying to draft") or auto.drafted.known < KNOWN):
            self._counting = True  # what it took since the last step of the run before is a sample as well
        if self._last is not None:
            seconds = now - self._last
            alone = ran and self._last_ran and not self._trying  # on the way to a try and back there are pauses
            side = auto.cloud if alone else auto.drafted if self._counting else None
            self._try_tokens += tokens
            self._try_drafted += tokens if self._counting else 0
            self._try_seconds += seconds
            auto.measured(now, seconds, tokens, side)
        self._last, self._last_ran = now, ran
        self._counting = (self._counting and self._state != "resting") or (not ran and self._state == "trying to run")

    def _begin_try(self, state: Literal["trying to run", "trying to draft"]) -> None:
        self._state = state
        self._trying = state == "trying to draft"
        self._try_tokens = self._try_drafted = 0
        self._try_seconds = 0.0
        self._counting = False

    def _try_running(self) -> int:
        self._begin_try("trying to run")
        return RUN

    def _rest(self) -> int:
        self._state = "resting"
        self._counting = False
        return FOREVER

    def _drafting_tried(self) -> int | None:
        auto = self._auto
        loss = self._try_seconds - self._try_tokens * auto.cloud.mean
        if self._try_drafted < DRAFT and loss < LOSS * auto.cloud.mean:
            return None
        if auto.collaborative:
            self._state = "drafting"
            return None
        return self._rest()
