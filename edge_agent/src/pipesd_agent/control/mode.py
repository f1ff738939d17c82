"""Selection of the decoding strategy, from what each is measured to cost (architecture §6, mode). Pure: no clock.

There are four strategies (`Strategy`), from the fewest steps of the target per token to one step for each: speculative
decoding; the same with a short autoregressive run of the target after each rejection, or after each draft of low
confidence; and target-only decoding. Such a run fills the time that the target would wait for the edge, and costs
steps: on the bench's simulator it saves up to a fifth of the time where a step takes about as long as the edge needs
for a round, and costs time where steps are long.

One `ModeSelector` per agent. `session()` gives the `Mode` of each session, which also measures: every step of an
autoregressive run that follows another one is a sample of what target-only decoding costs, every verdict of a session
that drafts is a sample of what its strategy costs.

What is measured at no cost (the free run that every session starts in) need not be probed. Strategies that are not in
use are probed now and then: in so short and rare probes that they cost `PROBE_BUDGET` of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, Literal

from pipesd_agent.control.mode_cost import TokenCost
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.observer import Decision
from pipesd_core.protocol.messages import FOREVER, Reason

Objective = Literal["latency", "offload"]

RUN_TOKENS: Final = 2
"""Tokens of an autoregressive run after a rejection, or after a draft of low confidence."""
LOW_CONFIDENCE: Final = 0.8
"""Drafts below this confidence have the target run, with that strategy."""
OFFLOAD_BOUND: Final = 2.0
"""Objective `offload`: most time per token, as a multiple of that of target-only decoding."""
HYSTERESIS: Final = 0.03
"""Share by which another strategy has to be better than the one in use."""

KNOWN_AFTER_TOKENS: Final = 32
"""Tokens after which the measured cost of a strategy that drafts is believed."""
KNOWN_AFTER_STEPS_TARGET_ONLY: Final = 6
"""Steps in a row after which that of target-only decoding is believed: steps of a target hardly differ."""
OUTLIER_S: Final = 2.0
"""Longer pauses, when far out of proportion too, are no sample: the client does not read, or the link is cut."""
EVALUATE_EVERY_TOKENS: Final = 8
"""Tokens between two evaluations of the costs, which would be too much work for every token."""

PROBE_BUDGET: Final = 0.012
"""Share of all time that probes may cost, once the costs of both sides are known."""
PROBE_TOKENS_TARGET_ONLY: Final = 12
"""Tokens of a probe of target-only decoding."""
PROBE_TOKENS_SPECULATIVE: Final = 48
"""Tokens of a probe of a strategy that drafts."""
PROBE_MAX_COST_TOKENS: Final = 24
"""Cost at which a probe ends early, as the time of so many tokens of target-only decoding."""
UNBUDGETED_PROBE_TOKENS: Final = 192
"""Tokens for which a strategy with runs is probed outside of the budget, when it may be the best one."""
UNBUDGETED_PROBE_COST_TOKENS: Final = 12
"""Most that these probes may cost for each strategy, as the time of so many tokens."""
PROBE_INTERVAL_TOKENS: Final = 128
"""Tokens between two probes, while it is open which strategy is better."""
PROBE_INTERVAL_MAX_TOKENS: Final = 4096
"""Most tokens between two probes otherwise: the interval doubles each time."""
PROBE_LEAD_TOKENS: Final = 4
"""Tokens before the end of a probe of target-only decoding at which drafting begins again."""
RUNS_MAY_BE_BEST: Final = (0.3, 2.5)
"""Bounds of the ratio of the costs of speculative to target-only decoding: outside, no strategy between is probed."""


class Strategy(IntEnum):
    """Decoding strategy, in the order from the fewest steps of the target per token to one step for each."""

    SPECULATIVE = 0
    SPECULATIVE_RUN_AFTER_REJECTION = 1
    SPECULATIVE_RUN_AFTER_LOW_CONFIDENCE = 2
    TARGET_ONLY = 3

    @property
    def label(self) -> str:
        """The name for logs and `/metrics`, such as "speculative-run-after-rejection"."""
        return self.name.lower().replace("_", "-")

    @property
    def run_after_rejection(self) -> int:
        """Tokens that the target goes on for by itself after a rejection."""
        return RUN_TOKENS if self is Strategy.SPECULATIVE_RUN_AFTER_REJECTION else 0

    @property
    def run_after_low_confidence(self) -> int:
        """Tokens that the target goes on for by itself after a draft below `LOW_CONFIDENCE`."""
        return RUN_TOKENS if self is Strategy.SPECULATIVE_RUN_AFTER_LOW_CONFIDENCE else 0


@dataclass(frozen=True)
class Switch:
    """A strategy that is used, or probed, from now on, and why."""

    strategy: Strategy
    reason: str


class ModeSelector:
    """Selects the strategy for all sessions of an agent.

    Args:
        objective: `latency`: the strategy of the least time per token; `offload`: the one of the fewest steps that
            takes at most `bound` times as long as target-only decoding.
        on_switch, on_probe: called with every change of the strategy in use, and with every probe of another one.

    Attributes:
        strategy: in use; reason: why.
        costs: of each strategy.
        tokens: output tokens of all sessions; seconds: between their verdicts.
        probe_seconds: time that probes have cost, on the way there and back included.

    Raises ValueError for a bound below 1.
    """

    def __init__(
        self,
        objective: Objective = "latency",
        *,
        bound: float = OFFLOAD_BOUND,
        on_switch: Callable[[Switch], None] = lambda _: None,
        on_probe: Callable[[Switch], None] = lambda _: None,
    ) -> None:
        if bound < 1:
            raise ValueError(f"bound must be 1 or more, but is {bound}")
        self.strategy = Strategy.SPECULATIVE
        self.reason = "nothing is measured yet"
        self.costs = {
            strategy: TokenCost() if strategy is Strategy.TARGET_ONLY else TokenCost(text_spread=0.5)
            for strategy in Strategy
        }
        self.tokens = 0
        self.seconds = 0.0
        self.probe_seconds = 0.0
        self._offload = objective == "offload"
        self._factor = bound if self._offload else 1.0
        self._on_switch = on_switch
        self._on_probe = on_probe
        self._known: set[Strategy] = set()
        self._measured_at = dict.fromkeys(Strategy, 0)
        self._probed_at = 0
        self._select_at = self._probe_check_at = 0
        self._probe_interval = PROBE_INTERVAL_TOKENS
        self._probe_cost_s = dict.fromkeys(Strategy, 0.0)
        """Cost of all probes of each strategy."""
        self._last_probe_cost_s = dict.fromkeys(Strategy, 0.0)
        """Cost of the last one of each."""

    @property
    def drafts(self) -> bool:
        """Whether anything is drafted with the strategy in use."""
        return self.strategy is not Strategy.TARGET_ONLY

    @property
    def allowed_s(self) -> float:
        """Seconds per token that a strategy that drafts may take; 0: not known yet."""
        return self._factor * self.costs[Strategy.TARGET_ONLY].mean

    @property
    def baseline_s(self) -> float:
        """Seconds per token that a probe is compared with: what it takes beyond them is what it costs."""
        return (self._offload and self.allowed_s) or self.costs[self.strategy].mean

    def session(self) -> SessionMode:
        """The mode of a new session."""
        return SessionMode(self)

    def is_known(self, strategy: Strategy) -> bool:
        """Whether its cost was measured for long enough to be believed, or for so long that it has lost too much."""
        if strategy not in self._known:
            cost = self.costs[strategy]
            if strategy is Strategy.TARGET_ONLY:
                known = cost.tokens >= KNOWN_AFTER_STEPS_TARGET_ONLY
            else:
                lost = (cost.mean / self.allowed_s - 1) * cost.tokens if self.allowed_s else 0.0
                known = cost.tokens >= KNOWN_AFTER_TOKENS or lost >= PROBE_MAX_COST_TOKENS
            if known:
                self._known.add(strategy)
        return strategy in self._known

    # For sessions.

    def record(self, seconds: float, tokens: int, strategy: Strategy | None) -> None:
        """Take note of a verdict of `tokens`, `seconds` after the one before. strategy: what it is a sample of."""
        self.tokens += tokens
        if strategy is not None:
            cost = self.costs[strategy]
            if cost.tokens >= KNOWN_AFTER_TOKENS and seconds > max(OUTLIER_S, 10 * cost.mean * tokens):
                return
            self._measured_at[strategy] = self.tokens
            if cost.add(seconds, tokens):
                self._probe_interval = PROBE_INTERVAL_TOKENS
                self._probed_at = self.tokens - PROBE_INTERVAL_TOKENS  # what is known of others is of before, too
            if len(self._known) < 2 or self.tokens >= self._select_at:
                self._select_at = self.tokens + EVALUATE_EVERY_TOKENS
                self._select()
        self.seconds += seconds

    def next_probe(self) -> Strategy | None:
        """The strategy to probe now; None: it is not time to. The caller then begins the probe."""
        if not self.is_known(Strategy.TARGET_ONLY):
            return Strategy.TARGET_ONLY if self.drafts and self.tokens >= self._probed_at else None
        if not self.is_known(Strategy.SPECULATIVE) or self.tokens < self._probe_check_at:
            return None
        self._probe_check_at = self.tokens + EVALUATE_EVERY_TOKENS
        used = self.costs[self.strategy]
        others = [strategy for strategy in self._worth_probing() if strategy is not self.strategy]
        if not others:
            return None
        hopes = {one: self.costs[one].mean - 2 * math.hypot(self.costs[one].error, used.error) for one in others}
        if self._offload:  # others than those of fewer steps are of interest only for what they cost
            hopes = {one: hope if one < self.strategy else math.inf for one, hope in hopes.items()}
        strategy = min(others, key=hopes.__getitem__)
        is_open = hopes[strategy] < (self.allowed_s if self._offload else used.mean)
        if not is_open:
            strategy = min(others, key=self._measured_at.__getitem__)
        unbudgeted = is_open and self._is_unbudgeted(strategy)
        interval = PROBE_INTERVAL_TOKENS if is_open else self._probe_interval
        if self.tokens - self._probed_at < (PROBE_TOKENS_SPECULATIVE if unbudgeted else interval):
            return None
        if not unbudgeted and self.probe_seconds + self._expected_cost_s(strategy) > PROBE_BUDGET * self.seconds:
            return None
        self._probed_at = self.tokens
        if not is_open:
            self._probe_interval = min(PROBE_INTERVAL_MAX_TOKENS, 2 * self._probe_interval)
        self._last_probe_cost_s[strategy] = 0.0
        return strategy

    def probe_begins(self, strategy: Strategy) -> None:
        """Take note of a session's probe."""
        if not self.is_known(strategy):
            reason = "what it costs is not known"
        else:
            ago = self.tokens - self._measured_at[strategy]
            reason = f"{1000 * self.costs[strategy].mean:.1f} ms per token when last measured, {ago} tokens ago"
        self._on_probe(Switch(strategy, reason))

    def probe_costs(self, strategy: Strategy, seconds: float, more: float) -> None:
        """Take note that a probe has cost `seconds` until now, `more` of them since the last call."""
        self._last_probe_cost_s[strategy] = seconds
        self._probe_cost_s[strategy] += more
        self.probe_seconds += more

    # Inside.

    def _select(self) -> None:
        if not self.is_known(Strategy.TARGET_ONLY) or not self.is_known(Strategy.SPECULATIVE):
            return
        best = self._best()
        if best is self.strategy:
            return
        if best is Strategy.TARGET_ONLY:  # a probe would have cost as much as this did, if it was short
            before = self.costs[self.strategy]
            lost = (before.mean - self.allowed_s) * min(before.tokens, PROBE_TOKENS_SPECULATIVE)
            self._last_probe_cost_s[self.strategy] = max(0.0, lost)
        self.strategy = best
        self._probe_interval = PROBE_INTERVAL_TOKENS
        self._probed_at = self.tokens
        found = (f"{one.label} {1000 * cost.mean:.1f}" for one, cost in self.costs.items() if cost.tokens)
        limit = f"; {self._factor:g} times as much as target-only is allowed" if self._offload else ""
        self.reason = f"ms per token: {'; '.join(found)}{limit}"
        self._on_switch(Switch(best, self.reason))

    def _best(self) -> Strategy:
        def weighted(strategy: Strategy) -> float:
            return self.costs[strategy].mean * (1 - HYSTERESIS if strategy is self.strategy else 1.0)

        known = [strategy for strategy in Strategy if self.is_known(strategy)]
        if self._offload:
            return next((one for one in known if weighted(one) <= self.allowed_s), Strategy.TARGET_ONLY)
        return min(known, key=weighted)

    def _worth_probing(self) -> list[Strategy]:
        """Speculative and target-only decoding always; what lies between them where that may be better than both."""
        least, most = RUNS_MAY_BE_BEST
        ratio = self.costs[Strategy.SPECULATIVE].mean / self.costs[Strategy.TARGET_ONLY].mean
        between = ratio > self._factor if self._offload else least < ratio < most
        return list(Strategy) if between else [Strategy.SPECULATIVE, Strategy.TARGET_ONLY]

    def _is_unbudgeted(self, strategy: Strategy) -> bool:
        """Whether little is known of a strategy with runs, and has cost little."""
        if strategy in (Strategy.SPECULATIVE, Strategy.TARGET_ONLY):
            return False
        most = UNBUDGETED_PROBE_COST_TOKENS * self.costs[self.strategy].mean
        return self.costs[strategy].tokens < UNBUDGETED_PROBE_TOKENS and self._probe_cost_s[strategy] < most

    def _expected_cost_s(self, strategy: Strategy) -> float:
        """Seconds that a probe is expected to cost, to begin and to end drafting included."""
        target_only = strategy is Strategy.TARGET_ONLY
        turning = 2 * PROBE_LEAD_TOKENS * self.costs[self.strategy].mean if target_only or not self.drafts else 0.0
        length = PROBE_TOKENS_TARGET_ONLY if target_only else PROBE_TOKENS_SPECULATIVE
        slower = (self.costs[strategy].mean - self.baseline_s) * length
        return max(turning, min(slower, PROBE_MAX_COST_TOKENS * self.baseline_s), self._last_probe_cost_s[strategy])


class _State(Enum):
    """State of a session's mode."""

    DRAFTING = 1
    RESTING = 2
    """Target-only: nothing is drafted."""
    PROBING = 3
    """Another strategy than the one in use is measured."""
    RETURNING = 4
    """Target-only again after a probe; the time until the target's next step still counts as the probe's cost."""


class SessionMode:
    """The `Mode` of one session, and what measures it for a `ModeSelector`."""

    def __init__(self, selector: ModeSelector) -> None:
        self._selector = selector
        self._state = _State.DRAFTING
        self._strategy = Strategy.SPECULATIVE
        """The strategy in states with drafts."""
        self._verifying = False
        """Whether a verification has come since drafting began."""
        self._decided_at: float | None = None
        """When the last verdict came."""
        self._verdict_of_run = False
        """Whether that one was of a step of an autoregressive run, without drafts."""
        self._probed = Strategy.SPECULATIVE
        """The strategy that is probed, in the states PROBING and RETURNING; what follows is of that probe."""
        self._probe_baseline_s = 0.0
        self._probe_tokens = self._probe_drafted_tokens = 0
        self._probe_seconds = self._probe_cost_s = 0.0

    @property
    def lead(self) -> int:
        """Tokens before the end of a bounded rest at which drafting begins again."""
        return PROBE_LEAD_TOKENS if self._probes_target_only else 2 * RUN_TOKENS

    def opening(self, now: float) -> int:  # noqa: ARG002
        """See `Mode.opening`."""
        selector = self._selector
        self._strategy = selector.strategy
        probe = selector.next_probe() if selector.costs[Strategy.TARGET_ONLY].tokens else None
        if probe is not None:
            return self._begin_probe(probe) or 0
        if selector.drafts:
            return 0
        self._state = _State.RESTING
        return FOREVER

    def drafted(self, token: DraftToken, now: float) -> int:
        """See `Mode.drafted`. A round that has taken too long already is cut short: what it costs is known then."""
        if self._is_resting:
            return 0
        if self._is_too_slow(now):
            self._state = _State.RETURNING if self._state is _State.PROBING else _State.RESTING
            return FOREVER
        if self._probes_target_only:
            return 0
        return self._strategy.run_after_low_confidence if token.confidence < LOW_CONFIDENCE else 0

    def decided(self, decision: Decision, now: float) -> int | None:
        """See `Mode.decided`."""
        self._measure(decision)
        self._decided_at = now
        rest = self._next_rest()
        if rest is None and decision.rejected and not self._is_resting and not self._probes_target_only:
            return self._strategy.run_after_rejection or None
        return rest

    # Inside.

    @property
    def _is_resting(self) -> bool:
        return self._state in (_State.RESTING, _State.RETURNING)

    @property
    def _has_probe(self) -> bool:
        """Whether time is part of a probe's cost."""
        return self._state in (_State.PROBING, _State.RETURNING)

    @property
    def _probes_target_only(self) -> bool:
        return self._has_probe and self._probed is Strategy.TARGET_ONLY

    def _is_too_slow(self, now: float) -> bool:
        """Whether a strategy of which too little is known has cost too much since the last verdict."""
        selector = self._selector
        probing = self._state is _State.PROBING and self._probed is not Strategy.TARGET_ONLY
        in_doubt = probing or not selector.is_known(self._strategy)
        if self._decided_at is None or not selector.is_known(Strategy.TARGET_ONLY):
            return False
        return in_doubt and now - self._decided_at > PROBE_MAX_COST_TOKENS * selector.allowed_s

    def _next_rest(self) -> int | None:
        """The answer of `decided`, but for what a rejection makes of it."""
        selector = self._selector
        if self._state is _State.PROBING:
            return self._continue_probe()
        if self._is_resting and selector.drafts:
            self._state = _State.DRAFTING
            self._verifying = False
            self._strategy = selector.strategy
            return 0
        if self._state is _State.DRAFTING:
            if not selector.drafts:
                return self._rest()
            self._strategy = selector.strategy
            if not self._verifying:
                return None
        probe = selector.next_probe()
        return None if probe is None else self._begin_probe(probe)

    def _measure(self, decision: Decision) -> None:
        selector, verdict, tokens = self._selector, decision.verdict, len(decision.tokens)
        of_run = verdict.reason is not Reason.VERIFICATION and not verdict.verified
        drafting = not self._is_resting and not self._probes_target_only
        if not of_run and (drafting or not selector.is_known(self._strategy)):
            self._verifying = True  # what it took since the last step of the run before is a sample as well
        if (seconds := decision.interval_s) is not None:
            sample = None
            if self._verifying:
                sample = self._strategy
            elif of_run and self._verdict_of_run and (not self._has_probe or self._probes_target_only):
                sample = Strategy.TARGET_ONLY  # on the way to a probe of drafting and back there are pauses
            if self._has_probe:
                self._add_to_probe(seconds, tokens)
            selector.record(seconds, tokens, sample)
        if self._is_resting:
            self._verifying = False
        if self._probes_target_only and not of_run:
            self._verifying = True
        if self._state is _State.RETURNING and of_run:
            self._state = _State.RESTING
        self._verdict_of_run = of_run

    def _add_to_probe(self, seconds: float, tokens: int) -> None:
        self._probe_tokens += tokens
        self._probe_drafted_tokens += tokens if self._verifying else 0
        self._probe_seconds += seconds
        cost = max(0.0, self._probe_seconds - self._probe_tokens * self._probe_baseline_s)
        self._selector.probe_costs(self._probed, cost, cost - self._probe_cost_s)
        self._probe_cost_s = cost

    def _begin_probe(self, strategy: Strategy) -> int | None:
        selector, resting = self._selector, self._is_resting
        selector.probe_begins(strategy)
        self._state, self._probed = _State.PROBING, strategy
        self._probe_baseline_s = selector.baseline_s
        self._probe_tokens = self._probe_drafted_tokens = 0
        self._probe_seconds = self._probe_cost_s = 0.0
        if strategy is Strategy.TARGET_ONLY:
            self._verifying = False
            return PROBE_TOKENS_TARGET_ONLY
        self._strategy = strategy
        if not resting:
            return None
        self._verifying = False
        return 0

    def _continue_probe(self) -> int | None:
        selector = self._selector
        if self._probed is Strategy.TARGET_ONLY:
            over = self._probe_tokens >= PROBE_TOKENS_TARGET_ONLY and self._verifying
        else:
            most_s = PROBE_MAX_COST_TOKENS * (self._probe_baseline_s or selector.allowed_s)
            over = self._probe_drafted_tokens >= PROBE_TOKENS_SPECULATIVE or self._probe_cost_s >= most_s
        if not over:
            return None
        if selector.drafts:
            self._state = _State.DRAFTING
            self._strategy = selector.strategy
            return None
        self._rest()
        if self._probed is not Strategy.TARGET_ONLY:
            self._state = _State.RETURNING
        return FOREVER

    def _rest(self) -> int:
        self._state = _State.RESTING
        self._verifying = False
        return FOREVER
