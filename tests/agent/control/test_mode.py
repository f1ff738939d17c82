"""The automatic mode: what it makes of what it measures."""

from __future__ import annotations

import random

import pytest

from pipesd_agent.control.mode import CLOUD, DRAFT, EXPLORE, LOSS, RUN, WAYS, AutoMode, SessionMode, Switch
from pipesd_agent.control.mode_cost import WINDOW
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.protocol.messages import FOREVER, Reason, Verdict


class World:
    """Answers of one session after the other. cloud, drafted: seconds per token; a verification decides `each`."""

    def __init__(self, auto: AutoMode, cloud: float, drafted: float, each: int = 4, noise: float = 0.0) -> None:
        self.auto, self.cloud, self.drafted, self.each, self.noise = auto, cloud, drafted, each, noise
        self.now = 0.0
        self.tokens = 0
        self.drafted_tokens = 0
        self._rng = random.Random(1)

    def answer(self, tokens: int = 200) -> None:
        mode = self.auto.session()
        left = mode.opening(self.now)
        for _ in range(3):  # the free run until the first draft
            self._step(mode, self.cloud, 1, Reason.RUN)
        end = self.tokens + tokens
        while self.tokens < end:
            if left > 0:
                left -= left < FOREVER
                said = self._step(mode, self.cloud, 1, Reason.RUN)
            else:
                self.drafted_tokens += self.each
                took = self.drafted * self.each * self._rng.uniform(1 - self.noise, 1 + self.noise)
                said = self._step(mode, took, self.each, Reason.VERIFICATION)
            left = left if said is None else said

    def _step(self, mode: SessionMode, seconds: float, tokens: int, reason: Reason) -> int | None:
        self.now += seconds
        self.tokens += tokens
        verified = tokens if reason is Reason.VERIFICATION else 0
        verdict = Verdict(0, 1, 2, verified, verified, tuple(range(tokens)), reason, 0, 0, 0)
        return mode.decided(verdict, self.now, rejected=False)


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
    auto = AutoMode("offload" if objective == "offload" else "latency", switched=switches.append)
    world = World(auto, cloud, drafted, noise=0.5)
    for _ in range(20):
        world.answer()
    assert auto.collaborative is collaborative
    if not collaborative:
        assert [switch.way for switch in switches] == [WAYS[CLOUD]]
        assert switches[0].reason == auto.reason
        assert f"cloud-only {1000 * cloud:.1f}" in auto.reason
    best = drafted if collaborative else cloud
    assert world.now < world.tokens * best * (1 + EXPLORE) + (LOSS + DRAFT) * max(cloud, drafted)


def test_equal_sides_are_not_switched_between() -> None:
    switches: list[Switch] = []
    auto = AutoMode(switched=switches.append)
    world = World(auto, 0.03, 0.0302, noise=0.3)
    for _ in range(50):
        world.answer()
    assert len(switches) <= 10
    assert world.now < world.tokens * 0.0302 * (1 + EXPLORE) + LOSS * 0.03


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.1), (0.1, 0.01)])
def test_it_follows_conditions_that_change(before: float, after: float) -> None:
    auto = AutoMode()
    world = World(auto, 0.03, before)
    for _ in range(20):
        world.answer()
    assert auto.collaborative is (before < after)
    world.drafted = after
    world.tokens, start = 0, world.now
    while auto.collaborative is (before < after):
        world.answer()
        assert world.tokens < 12_000, f"not after {world.now - start} s"


def test_a_target_that_becomes_slow_is_noticed() -> None:
    auto = AutoMode()
    world = World(auto, 0.01, 0.03)
    for _ in range(20):
        world.answer()
    assert not auto.collaborative
    world.cloud = 0.05
    for _ in range(3):
        world.answer()
    assert auto.collaborative


def test_a_round_that_takes_too_long_is_cut_short() -> None:
    auto = AutoMode()
    mode = auto.session()
    assert mode.opening(0.0) == 0
    for i in range(RUN):
        mode.decided(Verdict(0, 1, 2, 0, 0, (5,), Reason.RUN, 0, 0, 0), 0.01 * i, rejected=False)
    last = 0.01 * (RUN - 1)
    assert mode.drafted(DraftToken(3, 7, 0.9), last + 0.01 * LOSS - 0.001) == 0
    assert mode.drafted(DraftToken(4, 7, 0.9), last + 0.01 * LOSS + 0.001) == FOREVER
    verdict = Verdict(0, 2, 2, 2, 2, (7, 7, 7), Reason.VERIFICATION, 0, 0, 0)
    assert mode.decided(verdict, last + 0.4, rejected=False) is None
    assert not auto.collaborative


def test_silences_that_say_nothing_of_a_side_are_left_out() -> None:
    auto = AutoMode()
    world = World(auto, 0.01, 0.03)
    for _ in range(3):
        world.answer()
    known = auto.costs[CLOUD].mean
    world.cloud = 30.0
    mode = auto.session()
    mode.opening(world.now)
    for _ in range(2):
        world._step(mode, 30.0, 1, Reason.RUN)
    assert auto.costs[CLOUD].mean == known


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bound must be 1 or more, but is 0\.5"):
        AutoMode("offload", bound=0.5)


def test_a_try_costs_what_goes_beyond_the_way_in_use_or_beyond_what_offload_allows() -> None:
    for objective, par in (("latency", 0.03), ("offload", 0.06)):
        auto = AutoMode("offload" if objective == "offload" else "latency")
        assert auto.par == 0.0
        for _ in range(4 * WINDOW):
            auto.measured(0.1, 1, 0)
        assert auto.par == pytest.approx(0.1), "nothing is known of cloud-only"
        for _ in range(4 * WINDOW):
            auto.measured(0.03, 1, CLOUD)
        assert auto.use == CLOUD
        assert auto.par == pytest.approx(par)


@pytest.mark.parametrize(
    ("objective", "costs", "way"),
    [
        ("latency", (0.020, 0.018, 0.015, 0.03), 2),
        ("latency", (0.020, 0.015, 0.018, 0.03), 1),
        ("latency", (0.020, 0.022, 0.025, 0.03), 0),
        ("offload", (0.050, 0.020, 0.020, 0.03), 0),
        ("offload", (0.080, 0.055, 0.040, 0.03), 1),
        ("offload", (0.080, 0.070, 0.065, 0.03), CLOUD),
    ],
)
def test_the_ways_between_are_weighed_as_well(objective: str, costs: tuple[float, ...], way: int) -> None:
    auto = AutoMode("offload" if objective == "offload" else "latency")
    for which, cost in reversed(list(enumerate(costs))):
        for _ in range(8 * WINDOW):
            auto.measured(cost, 1, which)
    assert auto.use == way
    mode = auto.session()
    mode.opening(0.0)
    if way != CLOUD:
        sure, unsure = (mode.drafted(DraftToken(2, 7, confidence), 0.0) for confidence in (0.9, 0.5))
        assert (sure, unsure) == (0, WAYS[way].unsure)
        verdict = Verdict(0, 1, 2, 2, 1, (7, 8), Reason.VERIFICATION, 0, 0, 0)
        assert mode.decided(verdict, 0.05, rejected=True) == (WAYS[way].rejected or None)


def test_a_way_between_is_tried_only_where_it_may_be_better() -> None:
    tried = {}
    for drafted in (0.005, 0.02, 0.2):
        auto = AutoMode()
        world = World(auto, 0.03, drafted)
        for _ in range(10):
            world.answer()
        tried[drafted] = auto.costs[1].known > 0
    assert tried == {0.005: False, 0.02: True, 0.2: False}
