"""The upload planner: which batches drafts leave the device in, by measured costs and draft lengths.

One `Planner` per agent, since its sessions share the link; each session has a batcher and an observer of it. It is
sans-I/O: whoever owns it tells it what is measured (`learn`). All clock readings are the sessions'.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pipesd_agent.control.batchers import Immediate, Planned, Single, Timed, check_batcher
from pipesd_agent.control.draft_lengths import LONGEST, OVER, Lengths
from pipesd_agent.control.plan_dp import optimal_plan
from pipesd_agent.control.plan_expected import Timing, costs_nothing
from pipesd_agent.session.observer import NullObserver, SessionObserver
from pipesd_agent.session.policies import Batcher
from pipesd_core.protocol.messages import Draft, EdgeMessage, Resume

MOVED: Final = 0.2
"""Relative change of the mean draft length that is worth a new plan."""
US: Final = 1e6
LONGEST_WAIT_S: Final = 0.5
"""Longest wait for the link to be free of one message, whatever that is believed to cost."""


class Costs(NamedTuple):
    """Costs in µs: of a message on the link, of each token in it, of drafting a token (PipeSD: alpha, beta, gamma)."""

    message: int
    token: int
    draft: int


class Planner:
    """Plans of one agent.

    name: `immediate`, `single`, `dp` (the paper's plan for a draft of mean length) or `expected` (`plan_expected`). The
    latter two send each token at once until costs are known. Raises ConfigError for another.

    Attributes:
        costs: that plans are made for; None: not known yet.
        plans: how many were made.
        lengths: of drafts, all sessions' together.
    """

    def __init__(self, name: str) -> None:
        check_batcher(name)
        self.name = name
        self.costs: Costs | None = None
        self.plans = 0
        self.lengths = Lengths()
        self._free_at = self._sent_at = 0.0
        self._dp: tuple[tuple[int, Costs], tuple[int, ...]] | None = None
        self._timing: Timing | None = None
        self._timed_over = 0
        self._timed_for = 0

    def batcher(self) -> Batcher:
        """The batcher of a new session."""
        match self.name:
            case "single":
                return Single()
            case "dp":
                return Planned(self._paper_s)
            case "expected":
                return Timed(self._expected)
            case _:
                return Immediate()

    # What goes in.

    def observer(self) -> SessionObserver:
        """The observer of a new session."""
        return _PlannerObserver(self)

    def learn(self, message: float, token: float, draft: float) -> None:
        """Plan by these costs from now on, in µs; whoever measures them says when they have moved."""
        # A token is never free: where it costs less than 1 µs, plans with and without waiting for others would tie.
        costs = Costs(max(0, round(message)), max(1, round(token)), max(0, round(draft)))
        if costs != self.costs:
            self.costs = costs
            self._timing = None

    def restart(self) -> None:
        """The link is a new one, or the clock: nothing is on its way."""
        self._free_at = self._sent_at = 0.0

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:  # noqa: ARG002
        """Take note of a message of any session (`SessionObserver.sent`): the link is busy with it."""
        if isinstance(message, Resume):
            self.restart()  # of what was on the old link nothing is on this one
        if self.costs is not None:
            drafts = len(message.ids) if isinstance(message, Draft) else 0
            occupied = (self.costs.message + self.costs.token * drafts) / US
            self._free_at = max(self.room_at(), now) + occupied
            self._sent_at = now

    # What comes out.

    def room_at(self) -> float:
        """From when on the link can take a message that will not have to queue, by the sessions' clock.

        Until then it is better not to have decided what it says: drafts that queue go stale, and those that were
        sent behind a wrong one hold up what comes after it.
        """
        return min(self._free_at, self._sent_at + LONGEST_WAIT_S)

    @property
    def n_hat(self) -> int:
        """The mean draft length."""
        return self.lengths.n_hat

    @property
    def plan(self) -> tuple[int, ...] | None:
        """Batch sizes of a round that begins with the link idle and goes on to the plan's end; None: no plan."""
        match self.name:
            case "dp":
                return self._paper_s()
            case "expected":
                timing = self._timing_now()
                return None if timing is None else timing.plan()
            case _:
                return None

    # Inside.

    def _paper_s(self) -> tuple[int, ...] | None:
        if self.costs is None:
            return None
        key = min(self.n_hat, LONGEST), self.costs
        if self._dp is None or self._dp[0] != key:
            self._dp = key, optimal_plan(key[0], *self.costs)
            self.plans += 1
        return self._dp[1]

    def _expected(self, sent: int, unsent: int, now: float) -> bool:
        costs = self.costs
        if costs is None:
            return True
        backlog = max(0.0, self._free_at - now) * US
        if costs_nothing(unsent, backlog, *costs):
            return True  # as on every fast link: no table is ever made there
        timing = self._timing_now()
        return timing is None or timing.due(sent, unsent, backlog)

    def _timing_now(self) -> Timing | None:
        """Made anew with new costs, where N-hat has moved, and once all lengths are others."""
        if self.costs is None:
            return None
        n_hat, added = self.n_hat, self.lengths.added
        stale = added - self._timed_over >= OVER or abs(n_hat - self._timed_for) > MOVED * self._timed_for
        if self._timing is None or stale:
            self._timing = Timing(self.lengths.chances(), *self.costs)
            self._timed_over, self._timed_for = added, n_hat
            self.plans += 1
        return self._timing


class _PlannerObserver(NullObserver):
    """What the planner has to know of a session."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def verification_requested(self, drafts: int, now: float) -> None:  # noqa: ARG002
        self._planner.lengths.add(drafts)

    def sent(self, message: EdgeMessage, size: int, now: float) -> None:
        self._planner.sent(message, size, now)
