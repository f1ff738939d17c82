"""The automatic mode: what it makes of what it measures."""

from __future__ import annotations

import random

import pytest
from decisions import decision

from pipesd_agent.control.mode import (
    PROBE_BUDGET,
    PROBE_MAX_COST_TOKENS,
    PROBE_TOKENS_SPECULATIVE,
    PROBE_TOKENS_TARGET_ONLY,
    ModeSelector,
    SessionMode,
    Strategy,
    Switch,
)
from pipesd_agent.control.mode_cost import WINDOW_TOKENS
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.protocol.messages import FOREVER, Reason, Verdict


class World:
    """Answers of one session after the other. cloud, drafted: seconds per token; a verification decides `each`."""

    def __init__(self, selector: ModeSelector, cloud: float, drafted: float, each: int = 4, noise: float = 0.0) -> None:
        self.selector, self.cloud, self.drafted, self.each, self.noise = selector, cloud, drafted, each, noise
        self.now = 0.0
        self.tokens = 0
        self.drafted_tokens = 0
        self._rng = random.Random(1)

    def answer(self, tokens: int = 200) -> None:
        mode = self.selector.session()
        left = mode.opening(self.now)
        for _ in range(3):  # the free run until the first draft
            self._step(mode, self.cloud, 1, Reason.RUN)
        end = self.tokens + tokens
        while self.tokens < end:
            if left > 0:
                left -= left < FOREVER
                rest = self._step(mode, self.cloud, 1, Reason.RUN)
            else:
                self.drafted_tokens += self.each
                took = self.drafted * self.each * self._rng.uniform(1 - self.noise, 1 + self.noise)
                rest = self._step(mode, took, self.each, Reason.VERIFICATION)
            left = left if rest is None else rest

    def _step(self, mode: SessionMode, seconds: float, tokens: int, reason: Reason) -> int | None:
        self.now += seconds
        self.tokens += tokens
        verified = tokens if reason is Reason.VERIFICATION else 0
        verdict = Verdict(0, 1, 2, verified, verified, tuple(range(tokens)), reason, 0, 0, 0)
        return mode.decided(decision(verdict, seconds), self.now)


@pytest.mark.parametrize(
    ("objective", "cloud", "drafted", "collaborative"),
    [
        ("latency", 0.03, 0.02, True),
        ("latency", 0.03, 0.06, False),
        ("latency", 0.03, 0.3, False),
        ("offload", 0.03, 0.05, True),
        ("offload", 0.03, 0.09, False),
    ],
)
def test_it_settles_on_the_side_that_serves_the_objective(
    objective: str, cloud: float, drafted: float, collaborative: bool
) -> None:
    switches: list[Switch] = []
    selector = ModeSelector("offload" if objective == "offload" else "latency", on_switch=switches.append)
    world = World(selector, cloud, drafted, noise=0.5)
    for _ in range(20):
        world.answer()
    assert selector.drafts is collaborative
    if not collaborative:
        assert [switch.strategy for switch in switches] == [Strategy.TARGET_ONLY]
        assert switches[0].reason == selector.reason
        assert f"target-only {1000 * cloud:.1f}" in selector.reason
    best = drafted if collaborative else cloud
    learning = (PROBE_MAX_COST_TOKENS + PROBE_TOKENS_SPECULATIVE) * max(cloud, drafted)
    assert world.now < world.tokens * best * (1 + PROBE_BUDGET) + learning


def test_equal_sides_are_not_switched_between() -> None:
    switches: list[Switch] = []
    selector = ModeSelector(on_switch=switches.append)
    world = World(selector, 0.03, 0.0302, noise=0.3)
    for _ in range(50):
        world.answer()
    assert len(switches) <= 10
    assert world.now < world.tokens * 0.0302 * (1 + PROBE_BUDGET) + PROBE_MAX_COST_TOKENS * 0.03


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.1), (0.1, 0.01)])
def test_it_follows_conditions_that_change(before: float, after: float) -> None:
    selector = ModeSelector()
    world = World(selector, 0.03, before)
    for _ in range(20):
        world.answer()
    assert selector.drafts is (before < after)
    world.drafted = after
    world.tokens, start = 0, world.now
    while selector.drafts is (before < after):
        world.answer()
        assert world.tokens < 12_000, f"not after {world.now - start} s"


def test_a_target_that_becomes_slow_is_noticed() -> None:
    selector = ModeSelector()
    world = World(selector, 0.01, 0.03)
    for _ in range(20):
        world.answer()
    assert not selector.drafts
    world.cloud = 0.05
    for _ in range(3):
        world.answer()
    assert selector.drafts


def test_a_round_that_takes_too_long_is_cut_short() -> None:
    selector = ModeSelector()
    mode = selector.session()
    assert mode.opening(0.0) == 0
    for i in range(PROBE_TOKENS_TARGET_ONLY):
        verdict = Verdict(0, 1, 2, 0, 0, (5,), Reason.RUN, 0, 0, 0)
        mode.decided(decision(verdict, 0.01 if i else None), 0.01 * i)
    last = 0.01 * (PROBE_TOKENS_TARGET_ONLY - 1)
    assert mode.drafted(DraftToken(3, 7, 0.9), last + 0.01 * PROBE_MAX_COST_TOKENS - 0.001) == 0
    assert mode.drafted(DraftToken(4, 7, 0.9), last + 0.01 * PROBE_MAX_COST_TOKENS + 0.001) == FOREVER
    verdict = Verdict(0, 2, 2, 2, 2, (7, 7, 7), Reason.VERIFICATION, 0, 0, 0)
    assert mode.decided(decision(verdict, 0.4), last + 0.4) is None
    assert not selector.drafts


def test_silences_that_say_nothing_of_a_side_are_left_out() -> None:
    selector = ModeSelector()
    world = World(selector, 0.01, 0.03)
    for _ in range(3):
        world.answer()
    known = selector.costs[Strategy.TARGET_ONLY].mean
    world.cloud = 30.0
    mode = selector.session()
    mode.opening(world.now)
    for _ in range(2):
        world._step(mode, 30.0, 1, Reason.RUN)
    assert selector.costs[Strategy.TARGET_ONLY].mean == known


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bound must be 1 or more, but is 0\.5"):
        ModeSelector("offload", bound=0.5)


def test_a_probe_costs_what_goes_beyond_the_strategy_in_use_or_beyond_what_offload_allows() -> None:
    for objective, baseline in (("latency", 0.03), ("offload", 0.06)):
        selector = ModeSelector("offload" if objective == "offload" else "latency")
        assert selector.baseline_s == 0.0
        for _ in range(4 * WINDOW_TOKENS):
            selector.record(0.1, 1, Strategy.SPECULATIVE)
        assert selector.baseline_s == pytest.approx(0.1), "nothing is known of cloud-only"
        for _ in range(4 * WINDOW_TOKENS):
            selector.record(0.03, 1, Strategy.TARGET_ONLY)
        assert selector.strategy is Strategy.TARGET_ONLY
        assert selector.baseline_s == pytest.approx(baseline)


@pytest.mark.parametrize(
    ("objective", "costs", "strategy"),
    [
        ("latency", (0.020, 0.018, 0.015, 0.03), Strategy.SPECULATIVE_RUN_AFTER_LOW_CONFIDENCE),
        ("latency", (0.020, 0.015, 0.018, 0.03), Strategy.SPECULATIVE_RUN_AFTER_REJECTION),
        ("latency", (0.020, 0.022, 0.025, 0.03), Strategy.SPECULATIVE),
        ("offload", (0.050, 0.020, 0.020, 0.03), Strategy.SPECULATIVE),
        ("offload", (0.080, 0.055, 0.040, 0.03), Strategy.SPECULATIVE_RUN_AFTER_REJECTION),
        ("offload", (0.080, 0.070, 0.065, 0.03), Strategy.TARGET_ONLY),
    ],
)
def test_the_strategies_with_runs_are_weighed_as_well(
    objective: str, costs: tuple[float, ...], strategy: Strategy
) -> None:
    selector = ModeSelector("offload" if objective == "offload" else "latency")
    for which, cost in reversed(list(zip(Strategy, costs, strict=True))):
        for _ in range(8 * WINDOW_TOKENS):
            selector.record(cost, 1, which)
    assert selector.strategy is strategy
    mode = selector.session()
    mode.opening(0.0)
    if strategy is not Strategy.TARGET_ONLY:
        sure, unsure = (mode.drafted(DraftToken(2, 7, confidence), 0.0) for confidence in (0.9, 0.5))
        assert (sure, unsure) == (0, strategy.run_after_low_confidence)
        verdict = Verdict(0, 1, 2, 2, 1, (7, 8), Reason.VERIFICATION, 0, 0, 0)
        assert mode.decided(decision(verdict, None, rejected=True), 0.05) == (strategy.run_after_rejection or None)


def test_a_strategy_with_runs_is_probed_only_where_it_may_be_better() -> None:
    probed = {}
    for drafted in (0.005, 0.02, 0.2):
        selector = ModeSelector()
        world = World(selector, 0.03, drafted)
        for _ in range(10):
            world.answer()
        probed[drafted] = selector.costs[Strategy.SPECULATIVE_RUN_AFTER_REJECTION].tokens > 0
    assert probed == {0.005: False, 0.02: True, 0.2: False}
