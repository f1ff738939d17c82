"""Cloud-only or collaborative? From what both were measured to cost (architecture §6, mode). Pure: no clock of its own.

There are four *ways* to go on, from few steps of the target to one for each token (`WAYS`): drafting; drafting, while
the target runs on for two tokens after each rejection, or behind each unsure draft; and cloud-only. Running on
fills the time that the target would wait for the edge, and costs steps: measured on the proving ground it saves up to a
fifth where a step takes about as long as the edge needs for a round, and costs time where steps are long.

One `AutoMode` per agent; `session()` gives the `Mode` of each of its sessions, through which it also measures: every
step of a free run that follows another one is a sample of what cloud-only costs, and every verdict of a session that
drafts one of what its way costs. Whoever owns it gives each session's to its `Policies`, and nothing else.

What is measured at no cost (the free run that every session starts in) need not be explored; else ways that are not in
use are tried now and then, for so long only, and so seldom, that they cost `EXPLORE` of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from pipesd_agent.control.mode_cost import Cost
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.protocol.messages import FOREVER, Reason, Verdict

Objective = Literal["latency", "offload"]
BOUND: Final = 2.0
"""`offload`: collaborative while its time per token is at most so many times that of cloud-only."""
EXPLORE: Final = 0.012
"""Share of all time that trying other ways may cost, once they are known."""
HYSTERESIS: Final = 0.03
KNOWN: Final = 32
"""Tokens after which what was measured is believed."""
SURE: Final = 192
"""Tokens that the ways between drafting and cloud-only are tried for outside the budget of `EXPLORE`,"""
LEARNING: Final = 12
"""unless that has cost the time of so many tokens, for each of them."""
RUN: Final = 12
"""Tokens that cloud-only is tried for: steps of a target hardly differ."""
ENOUGH: Final = 6
"""Steps, one after the other, after which that is known."""
DRAFT: Final = 48
"""Tokens that another way is tried for."""
LOSS: Final = 24
"""Or until it has cost the time of so many tokens of cloud-only."""
SOON: Final = 128
LATE: Final = 4096
"""Tokens between two tries: while it is open which side is better, and at most."""
LOOK: Final = 8
"""Tokens between two looks at all this, once both sides are known: it is no work for every token."""
LEAD: Final = 4
"""Tokens before the end of a try of cloud-only that drafting begins again."""
UNSURE: Final = 0.8
"""Confidence below which a draft is unsure."""
BETWEEN: Final = (0.3, 2.5)
"""Time per token of drafting over that of cloud-only within which the ways between them may be better than both."""
GAP_S: Final = 2.0
"""Longer silences, far out of proportion, are a client that does not read or a link that is cut."""


@dataclass(frozen=True)
class Way:
    """rejected, unsure: tokens that the target runs on for after a rejection, and behind an unsure draft."""

    name: str
    rejected: int = 0
    unsure: int = 0


WAYS: Final = (
    Way("drafting"),
    Way("drafting, the target running on after rejections", rejected=2),
    Way("drafting, the target running on behind unsure drafts", unsure=2),
    Way("cloud-only"),
)
CLOUD: Final = len(WAYS) - 1


@dataclass(frozen=True)
class Switch:
    """way: of `WAYS`."""

    way: Way
    reason: str


class AutoMode:
    """Of all sessions of an agent.

    objective: `latency`, the way of least time per token; `offload`, the first one (of fewest steps) that takes at most
    `bound` times as long as cloud-only. switched: is told of every change of mind, tried: of every try of another way.

    Attributes: use: the way in use, an index of `WAYS`, and `reason`: why. costs: of each way.
    """

    def __init__(
        self,
        objective: Objective = "latency",
        *,
        bound: float = BOUND,
        switched: Callable[[Switch], None] = lambda _: None,
        tried: Callable[[Switch], None] = lambda _: None,
    ) -> None:
        if bound < 1:
            raise ValueError(f"bound must be 1 or more, but is {bound}")
        self.use = 0
        self.reason = "nothing is measured yet"
        self.costs = [Cost(spread=0.5) for _ in WAYS[:CLOUD]] + [Cost()]
        self.tokens = 0
        """Of all sessions."""
        self.seconds = 0.0
        """Between verdicts, of all sessions."""
        self.spent = 0.0
        """Seconds that tries have cost, on the way there and back included."""
        self._offload = objective == "offload"
        self._factor = bound if self._offload else 1.0
        self._switched = switched
        self._tried = tried
        self._known: set[int] = set()
        self._measured_at = [0 for _ in WAYS]
        self._tried_at = 0
        self._decide_at = self._look_at = 0
        self._patience = SOON
        self._cost_of = [0.0 for _ in WAYS]
        """What all tries of each have cost."""
        self._last_try = [0.0 for _ in WAYS]
        """What the last one of each cost."""

    @property
    def way(self) -> Way:
        """In use."""
        return WAYS[self.use]

    @property
    def collaborative(self) -> bool:
        """Is anything drafted?"""
        return self.use != CLOUD

    @property
    def allowed(self) -> float:
        """Seconds per token that drafting may take; 0: not known yet."""
        return self._factor * self.costs[CLOUD].mean

    @property
    def par(self) -> float:
        """Seconds per token that a try is held against: what it takes beyond them is what it costs."""
        return (self._offload and self.allowed) or self.costs[self.use].mean

    def session(self) -> SessionMode:
        """The mode of a new session."""
        return SessionMode(self)

    def known(self, way: int) -> bool:
        """Was so much of it measured once that it is to be believed, or has it lost too much already?"""
        if way not in self._known:
            cost = self.costs[way]
            lost = (cost.mean / self.allowed - 1) * cost.known if way != CLOUD and self.allowed else 0.0
            if cost.known >= (ENOUGH if way == CLOUD else KNOWN) or lost >= LOSS:
                self._known.add(way)
        return way in self._known

    # For sessions.

    def measured(self, seconds: float, tokens: int, way: int | None) -> None:
        """A verdict came; way: what its time is a sample of."""
        self.tokens += tokens
        if way is not None:
            cost = self.costs[way]
            if cost.known >= KNOWN and seconds > max(GAP_S, 10 * cost.mean * tokens):
                return
            self._measured_at[way] = self.tokens
            if cost.add(seconds, tokens):
                self._patience = SOON
                self._tried_at = self.tokens - SOON  # what is known of others is of other conditions, too
            if len(self._known) < 2 or self.tokens >= self._decide_at:
                self._decide_at = self.tokens + LOOK
                self._decide()
        self.seconds += seconds

    def _decide(self) -> None:
        if not self.known(CLOUD) or not self.known(0):
            return
        way = self._best()
        if way == self.use:
            return
        if way == CLOUD:  # a try would have cost as much as this did, if it was short
            before = self.costs[self.use]
            self._last_try[self.use] = max(0.0, (before.mean - self.allowed) * min(before.known, DRAFT))
        self.use = way
        self._patience = SOON
        self._tried_at = self.tokens
        found = (f"{name.name} {1000 * c.mean:.1f}" for name, c in zip(WAYS, self.costs, strict=True) if c.known)
        limit = f"; {self._factor:g} times as much as cloud-only is allowed" if self._offload else ""
        self.reason = f"ms a token: {'; '.join(found)}{limit}"
        self._switched(Switch(WAYS[way], self.reason))

    def _best(self) -> int:
        def weight(way: int) -> float:
            return 1 - HYSTERESIS if way == self.use else 1.0

        known = [way for way in range(len(WAYS)) if self.known(way)]
        if self._offload:
            within = (way for way in known if self.costs[way].mean * weight(way) <= self.allowed)
            return next(within, CLOUD)
        return min(known, key=lambda way: self.costs[way].mean * weight(way))

    def may_try(self) -> int | None:
        """Is it time to see what another way costs now? Which one: then a try of it begins."""
        if not self.known(CLOUD):
            return CLOUD if self.collaborative and self.tokens >= self._tried_at else None
        if not self.known(0) or self.tokens < self._look_at:
            return None
        self._look_at = self.tokens + LOOK
        used = self.costs[self.use]
        others = [way for way in self._worth_trying() if way != self.use]
        if not others:
            return None
        hopes = {way: self.costs[way].mean - 2 * math.hypot(self.costs[way].error, used.error) for way in others}
        if self._offload:  # others than those of fewer steps are of interest only for what they cost
            hopes = {way: hope if way < self.use else math.inf for way, hope in hopes.items()}
        way = min(others, key=hopes.__getitem__)
        is_open = hopes[way] < (self.allowed if self._offload else used.mean)
        if not is_open:
            way = min(others, key=self._measured_at.__getitem__)
        cost = self.costs[way]
        new = is_open and 0 < way < CLOUD and cost.known < SURE and self._cost_of[way] < LEARNING * used.mean
        if self.tokens - self._tried_at < (DRAFT if new else SOON if is_open else self._patience):
            return None
        length = RUN if way == CLOUD else DRAFT
        moving = 2 * LEAD * used.mean if CLOUD in (way, self.use) else 0.0
        expected = max(moving, min((cost.mean - self.par) * length, LOSS * self.par), self._last_try[way])
        if not new and self.spent + expected > EXPLORE * self.seconds:
            return None
        self._tried_at = self.tokens
        if not is_open:
            self._patience = min(LATE, 2 * self._patience)
        self._last_try[way] = 0.0
        return way

    def _worth_trying(self) -> list[int]:
        """Cloud-only and drafting always; what lies between them where it may be better."""
        least, most = BETWEEN
        ratio = self.costs[0].mean / self.costs[CLOUD].mean
        between = ratio > self._factor if self._offload else least < ratio < most
        return [0, *(range(1, CLOUD) if between else ()), CLOUD]

    def begins_try(self, way: int) -> None:
        """A session is about to go this way for a while."""
        if not self.known(way):
            reason = "what it costs is not known"
        else:
            ago = self.tokens - self._measured_at[way]
            reason = f"{1000 * self.costs[way].mean:.1f} ms a token when last measured, {ago} tokens ago"
        self._tried(Switch(WAYS[way], reason))

    def trying(self, way: int, cost: float, more: float) -> None:
        """A try of `way` has cost so many seconds until now, `more` than last told."""
        self._last_try[way] = cost
        self._cost_of[way] += more
        self.spent += more


class SessionMode:
    """A `policies.Mode`."""

    def __init__(self, auto: AutoMode) -> None:
        self._auto = auto
        self._last: float | None = None
        self._last_ran = False
        """The last step was one of a free run, without drafts."""
        self._way = 0
        self._resting = False
        self._counting = False
        """Has a verification come since drafting began?"""
        self._try: int | None = None
        """The way that is being tried, or was until the one in use is back at work."""
        self._returning = False
        self._try_from = 0.0
        """The `par` when the try began."""
        self._try_tokens = self._try_drafted = 0
        self._try_seconds = self._try_cost = 0.0

    @property
    def lead(self) -> int:
        """Only cloud-only has the drafter rest."""
        return LEAD if self._try == CLOUD else 2 * max(max(way.rejected, way.unsure) for way in WAYS)

    def opening(self, now: float) -> int:  # noqa: ARG002
        auto = self._auto
        self._way = auto.use
        way = auto.may_try() if auto.costs[CLOUD].known else None
        if way is not None:
            return self._begin_try(way) or 0
        self._resting = not auto.collaborative
        return FOREVER if self._resting else 0

    def drafted(self, token: DraftToken, now: float) -> int:
        """A round that has taken too long already is cut short: what it costs is known then."""
        auto = self._auto
        doubtful = not self._resting and (self._try not in (None, CLOUD) or not auto.known(self._way))
        late = self._last is not None and auto.known(CLOUD) and now - self._last > LOSS * auto.allowed
        if doubtful and late:
            self._resting = True
            self._returning = self._try is not None
            return FOREVER
        if self._resting or self._try == CLOUD:
            return 0
        return WAYS[self._way].unsure if token.confidence < UNSURE else 0

    def decided(self, verdict: Verdict, now: float, *, rejected: bool) -> int | None:
        self._measure(verdict, now)
        auto = self._auto
        if self._try is not None and not self._returning:
            said = self._go_on_trying()
        elif self._resting and not auto.collaborative:
            said = self._begin(auto.may_try())
        elif self._resting:
            self._resting = self._counting = self._returning = False
            self._try = None
            self._way = auto.use
            said = 0
        elif not auto.collaborative:
            said = self._rest()
        else:
            self._way = auto.use
            said = self._begin(auto.may_try() if self._counting else None)
        if said is None and rejected and not self._resting and self._try != CLOUD:
            return WAYS[self._way].rejected or None
        return said

    def _measure(self, verdict: Verdict, now: float) -> None:
        auto, tokens = self._auto, len(verdict.tokens)
        ran = verdict.reason is not Reason.VERIFICATION and not verdict.verified
        if not ran and ((not self._resting and self._try != CLOUD) or not auto.known(self._way)):
            self._counting = True  # what it took since the last step of the run before is a sample as well
        if self._last is not None:
            seconds = now - self._last
            way = None
            if self._counting:
                way = self._way
            elif ran and self._last_ran and self._try in (None, CLOUD):
                way = CLOUD  # on the way to a try of drafting and back there are pauses
            if self._try is not None:
                self._pay(seconds, tokens)
            auto.measured(seconds, tokens, way)
        if self._resting:
            self._counting = False
        if self._try == CLOUD and not ran:
            self._counting = True
        if self._returning and ran:
            self._try, self._returning = None, False
        self._last, self._last_ran = now, ran

    def _pay(self, seconds: float, tokens: int) -> None:
        self._try_tokens += tokens
        self._try_drafted += tokens if self._counting else 0
        self._try_seconds += seconds
        cost = max(0.0, self._try_seconds - self._try_tokens * self._try_from)
        assert self._try is not None
        self._auto.trying(self._try, cost, cost - self._try_cost)
        self._try_cost = cost

    def _begin(self, way: int | None) -> int | None:
        return None if way is None else self._begin_try(way)

    def _begin_try(self, way: int) -> int | None:
        """Of another way than the one in use."""
        auto = self._auto
        auto.begins_try(way)
        self._try, self._returning = way, False
        self._try_from = auto.par
        self._try_tokens = self._try_drafted = 0
        self._try_seconds = self._try_cost = 0.0
        if way == CLOUD:
            self._counting = False
            return RUN
        self._way = way
        if not self._resting:
            return None
        self._resting = self._counting = False
        return 0

    def _go_on_trying(self) -> int | None:
        auto = self._auto
        if self._try == CLOUD:
            over = self._try_tokens >= RUN and self._counting
        else:
            over = self._try_drafted >= DRAFT or self._try_cost >= LOSS * (self._try_from or auto.allowed)
        if not over:
            return None
        if not auto.collaborative and self._try != CLOUD:
            self._returning = True
            return self._rest()
        self._try = None
        if not auto.collaborative:
            return self._rest()
        self._way = auto.use
        return None

    def _rest(self) -> int:
        self._resting = True
        self._counting = False
        return FOREVER
