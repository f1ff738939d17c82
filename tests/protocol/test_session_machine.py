"""Both ends of the protocol under a hostile pipe: delay, loss, duplication, stale epochs, slow readers, links that are
cut (noticed by both ends or by one), reconnects, gateways that forget everything, moves to another one, and gateways
that are about to end and open nothing again.

Whatever happens, the text that a client sees is the target's own and whole, nothing is retracted or said twice, no wish
for verification stays unanswered and no state grows without bound (`World.check`, `World.settle`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import N_VOCAB, Run, World

from pipesd_agent.control.triggers import DualSettings, FixedSettings, SequenceSettings, TriggerSettings
from pipesd_core.protocol.messages import MAX_UNACKED

TRIGGERS = st.one_of(
    st.builds(FixedSettings, length=st.sampled_from([1, 3, 8, 32])),
    st.builds(DualSettings, r1=st.floats(0, 1), r2=st.floats(0, 1)),
    st.builds(SequenceSettings, r1=st.floats(0, 1), decay=st.sampled_from([0.1, 0.9])),
    st.sampled_from([kind() for kind in get_args(TriggerSettings)]),
)
"""Those that are played with any of their settings, and each that there is with its defaults."""


class HostilePipe(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**32),
        wrong=st.sampled_from([0.0, 0.3, 1.0]),
        dry=st.sampled_from([0.0, 0.2, 1.0]),
        max_tokens=st.sampled_from([1, 2, 9, 60, 400]),
        trigger=TRIGGERS,
        batcher=st.sampled_from(["immediate", "single"]),
        window=st.sampled_from([1, 4, 12, 300]),
        context=st.sampled_from([3, 20, 10_000]),
        collaborative=st.sampled_from([True, True, True, False]),
        lead=st.sampled_from([12, 5, 30, 0]),
        free_start=st.sampled_from((None, 1, 1, 2, 9)),
        restless=st.sampled_from([0.0, 0.1, 0.5]),
        whimsical=st.booleans(),
    )
    def open(
        self,
        seed: int,
        wrong: float,
        dry: float,
        max_tokens: int,
        trigger: TriggerSettings,
        batcher: str,
        window: int,
        context: int,
        collaborative: bool,
        lead: int,
        free_start: int | None,
        restless: float,
        whimsical: bool,
    ) -> None:
        self.world = World(
            seed,
            wrong=wrong,
            dry=dry,
            max_tokens=max_tokens,
            trigger=trigger,
            batcher=batcher,
            window=window,
            drafter_context=context,
            collaborative=collaborative,
            free_start=free_start,
            restless=restless,
            whimsical=whimsical,
        )
        self.left = False
        for _ in range(lead):
            self.world.turn()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        if self.left:
            world.reconnect()
            world.drain()
            assert world.gateway.channels == 0
            assert world.edge.ended
        else:
            world.settle()
            assert world.ended_rightly, world.describe()
        world.forget()
        assert all(node.connection.channels == 0 for node in world.nodes)
        assert world.quota.share(None).taken == 0
        assert len(world.registry) == 0
        assert all(node.engine is None or node.engine.aborted or node.engine.over for node in world.nodes)

    @invariant()
    def what_must_hold(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    @rule(times=st.integers(1, 30))
    def everything_moves(self, times: int) -> None:
        """So that what follows happens in mid-answer, too."""
        for _ in range(times):
            self.world.turn()

    @rule(times=st.integers(1, 30))
    def edge_sends(self, times: int) -> None:
        for _ in range(times):
            self.world.edge_sends()

    @rule(times=st.integers(1, 30))
    def deliver_up(self, times: int) -> None:
        for _ in range(times):
            self.world.deliver_up()

    @rule(times=st.integers(1, 300))
    def deliver_down(self, times: int) -> None:
        for _ in range(times):
            self.world.deliver_down()

    @rule(times=st.integers(1, 300))
    def engine(self, times: int) -> None:
        self.world.engine_starts()
        for _ in range(times):
            self.world.engine_steps()

    @rule(times=st.integers(1, 30))
    def lane(self, times: int) -> None:
        self.world.lane_applies()
        for _ in range(times):
            self.world.lane_drafts()

    @rule(times=st.integers(1, 30))
    def lane_reports(self, times: int) -> None:
        for _ in range(times):
            self.world.lane_reports()

    @rule(times=st.integers(1, 100))
    def client_takes(self, times: int) -> None:
        for _ in range(times):
            self.world.client_takes()

    @rule(times=st.integers(1, 400))
    def client_sleeps(self, times: int) -> None:
        """A slow reader: all else goes on, as far as it may."""
        for _ in range(times):
            if not self.world.turn(reading=False):
                break

    @rule(seconds=st.sampled_from([0.01, 1.0, 4.5, 6.0, 25.0]))
    def clock(self, seconds: float) -> None:
        self.world.clock(seconds)

    @rule(index=st.integers(0, 100))
    def lose(self, index: int) -> None:
        self.world.lose_draft(index)

    @rule(index=st.integers(0, 100), later=st.booleans())
    def duplicate(self, index: int, later: bool) -> None:
        self.world.duplicate_draft(index, later)

    @rule(start=st.integers(0, 500), ids=st.lists(st.integers(0, N_VOCAB - 1), max_size=5))
    def stale(self, start: int, ids: list[int]) -> None:
        self.world.forge_stale(start, tuple(ids))

    @precondition(lambda self: self.world.listening)
    @rule(until=st.integers(0, 100))
    def run(self, until: int) -> None:
        self.world.inject(Run(0, until))

    @precondition(lambda self: self.world.connected)
    @rule(half_open=st.booleans())
    def cut(self, half_open: bool) -> None:
        self.world.cut(half_open=half_open)

    @precondition(lambda self: not self.world.connected)
    @rule()
    def reconnect(self) -> None:
        self.world.reconnect()

    @precondition(lambda self: self.world.edge.opened is not None and not self.world.over)
    @rule(half_open=st.booleans(), times=st.integers(0, 30))
    def cut_and_go_on(self, half_open: bool, times: int) -> None:
        self.world.cut(half_open=half_open)
        self.world.engine_steps()
        self.world.reconnect()
        for _ in range(times):
            self.world.turn()

    @precondition(lambda self: self.world.old)
    @rule(times=st.integers(1, 30))
    def deliver_up_late(self, times: int) -> None:
        for _ in range(times):
            self.world.deliver_up_late()

    @precondition(lambda self: self.world.edge.opened is not None and not self.world.over)
    @rule()
    def restart(self) -> None:
        self.world.restart_gateway()

    @precondition(lambda self: self.world.edge.opened is not None and not self.world.over)
    @rule()
    def move(self) -> None:
        self.world.move()

    @precondition(lambda self: self.world.edge.opened is not None and not self.world.over)
    @rule()
    def drains(self) -> None:
        self.world.restart_gateway()
        self.world.refusing = True
        self.world.reconnect()

    @rule(rarely=st.integers(0, 9))
    def client_leaves(self, rarely: int) -> None:
        if rarely == 0:
            self.left = True
            self.world.client_leaves()


class LongHostilePipe(HostilePipe):
    pass


TestHostilePipe = HostilePipe.TestCase
TestHostilePipe.settings = settings(max_examples=500, stateful_step_count=60)

TestLongHostilePipe = pytest.mark.full(pytest.mark.timeout(3600)(LongHostilePipe.TestCase))
TestLongHostilePipe.settings = settings(max_examples=10_000, stateful_step_count=60)


@pytest.mark.parametrize("trigger", [FixedSettings(length=n) for n in (1, 8, 32)] + [DualSettings()])
@pytest.mark.parametrize("batcher", ["immediate", "single"])
@pytest.mark.parametrize(("wrong", "dry"), [(0.0, 0.0), (0.3, 0.0), (0.3, 0.2), (0.0, 1.0)])
def test_without_loss_no_timeout_is_needed(trigger: TriggerSettings, batcher: str, wrong: float, dry: float) -> None:
    """Under any order of moves every wish is answered by a verdict, not by a clock."""
    for seed in range(40):
        free_start, restless = (None, 1, 3, 1)[seed % 4], (0.0, 0.05, 0.4)[seed % 3]
        world = World(
            seed, wrong=wrong, dry=dry, trigger=trigger, batcher=batcher, free_start=free_start, restless=restless
        )
        world.end_without_a_clock(random.Random(seed))


@pytest.mark.parametrize("collaborative", [True, False])
def test_long_schedules_of_faults_end_with_the_whole_answer(collaborative: bool) -> None:
    """What short ones seldom reach: the third link of the second gateway, in mid-answer."""
    moved = 0
    for seed in range(100):
        restless, whimsical = (0.0, 0.1)[seed % 2], seed % 4 > 1
        world = World(seed, collaborative=collaborative, wrong=0.2, restless=restless, whimsical=whimsical)
        rng = random.Random(seed)
        moves: list[Callable[[], object]] = [
            *6 * world.moves,
            partial(world.cut, half_open=False),
            partial(world.cut, half_open=True),
            world.reconnect,
            world.reconnect,
            world.deliver_up_late,
        ]
        for move in rng.choices(moves, k=800):
            move()
            world.check()
            if rng.random() < 0.003:
                rng.choice((world.restart_gateway, world.move))()
        world.settle()
        assert world.complete, world.describe()
        assert world.now == 1000.0, "only a timeout got it moving again"
        moved += world.restarts > 0 and world.engines > 1
        world.forget()
        assert len(world.registry) == world.quota.share(None).taken == 0
    assert moved > 10


def waiting_for_the_reader() -> Iterator[World]:
    """Worlds where nothing moves any more because the client reads nothing; not those whose answer is short."""
    for seed in range(80):
        world = World(seed, wrong=1.0, max_tokens=400)
        while world.turn(reading=False):
            pass
        if not world.edge.ended and world.gateway.channels:
            yield world


@pytest.mark.parametrize("fault", ["none", "cut", "half open", "restart"])
def test_a_slow_reader_holds_the_session_and_loses_nothing(fault: str) -> None:
    held = 0
    for world in waiting_for_the_reader():
        held += 1
        assert len(world.untaken) <= MAX_UNACKED
        match fault:
            case "cut" | "half open":
                world.cut(half_open=fault == "half open")
                world.reconnect()
            case "restart":
                world.restart_gateway()
        world.settle()
        assert world.complete, world.describe()
    assert held >= 5


def test_an_ack_that_is_lost_with_the_link_is_said_again() -> None:
    """A gateway that waits for it would end the answer."""
    held = 0
    for world in waiting_for_the_reader():
        held += 1
        while world.client_takes() or world.edge_sends():
            pass
        world.cut(half_open=False)
        world.reconnect()
        world.settle()
        assert world.complete, world.describe()
    assert held >= 5


def test_a_reader_that_sleeps_for_good_is_given_up_with_an_error() -> None:
    given_up = 0
    for world in waiting_for_the_reader():
        for _ in range(13):
            world.clock(5.0)
            while world.turn(reading=False):
                pass
        world.settle()
        assert world.ended_rightly, world.describe()
        given_up += world.error is not None
    assert given_up >= 5


def test_a_perfect_drafter_saves_forwards() -> None:
    """The machinery does what it is for: far fewer target forwards than tokens, and nothing drafted is lost."""
    world = World(4, wrong=0.0, max_tokens=200, trigger=FixedSettings(length=6))
    world.settle()
    tokens = len(world.truth)
    assert tokens > 50
    assert world.edge.counts.forwards < 0.5 * tokens
    assert world.edge.counts.discards == 0
    assert world.edge.counts.accepted > 0.5 * tokens
