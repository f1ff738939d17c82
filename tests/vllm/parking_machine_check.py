"""Run under .venv-vllm's python by test_vllm_parking.py: random schedules of sessions, for both runners and both loops.

Edges order rounds, clients come and go, caches are reset and the core is paused at any point between two steps, and
requests are aborted in the middle of one, with blocks, slots and tokens a step in short supply. Whatever happens, each
text is the target's own and whole, an order is taken whenever its edge thinks that the round before is over, a session
is at one stage only, and nothing is left in the end.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from scripted_engine import BLOCK, CONTEXT, DRAFTS, KINDS, NEVER, STOPS, Engine, Kind

from pipesd_vllm.parking import Stage

SCHEDULES: Final = int(os.environ.get("SCHEDULES", "300"))
REQUESTS: Final = 14
PLAYED: Final = Counter[str]()
"""What happened in all schedules."""
EXPECTED: Final = (
    *(f"{what} {stage.name}" for what in ("abort", "reset") for stage in Stage),
    *(f"{what}, {kind.name}" for what in ("schedule", "eviction", "drafts left over", "preempted") for kind in KINDS),
    "slot given up, V2 synchronous",
    "slot given up, V2 asynchronous",
    "preempted with an output in flight, V2 asynchronous",
)
"""What the schedules have to have played, or they prove little. (Between two steps of the synchronous loop nothing is
in flight.)"""


class Schedules(RuleBasedStateMachine):
    """The core, its edges and its clients."""

    @initialize(
        kind=st.sampled_from(KINDS),
        blocks=st.sampled_from([CONTEXT // BLOCK + 2, 24, 400]),
        slots=st.integers(1, 5),
        budget=st.sampled_from([1, DRAFTS, 9, 16, 24, 128]),
        active=st.sampled_from([None, 1, 2]),
        caching=st.booleans(),
        sessions=st.lists(
            st.tuples(st.integers(1, 30), st.integers(1, 24), st.sampled_from([0, 0, 2, 20])), max_size=6
        ),
        crowded=st.booleans(),
        steps=st.integers(0, 12),
    )
    def start(
        self,
        kind: Kind,
        blocks: int,
        slots: int,
        budget: int,
        active: int | None,
        caching: bool,
        sessions: list[tuple[int, int, int]],
        crowded: bool,
        steps: int,
    ) -> None:
        most = None if active is None else min(active, slots)
        self.engine = Engine(kind, blocks, slots, max(budget, slots), most, caching)
        if crowded:  # free runs that do not fit in memory together
            sessions = [(BLOCK * (blocks - 1) // 4, 24, 20)] * 3
        for prompt, tokens, ahead in sessions:
            self.ask(min(prompt, 40), False, tokens, ahead, False)
        self.step(steps)

    @precondition(lambda self: len(self.engine.asked) < REQUESTS)
    @rule(
        prompt=st.integers(1, 40), same=st.booleans(), most=st.integers(1, 24),
        ahead=st.sampled_from([None, 0, 0, 1, 20]), stops=st.booleans(),
    )  # fmt: skip
    def ask(self, prompt: int, same: bool, most: int, ahead: int | None, stops: bool) -> None:
        number = len(self.engine.asked)
        text = [500 if same else 500 + number] * prompt
        self.engine.add(f"r{number}", text, min(most, CONTEXT - prompt), ahead, STOPS if stops else ())

    @precondition(lambda self: self.engine.waiting_for_edge())
    @rule(
        data=st.data(), right=st.integers(0, DRAFTS), wrong=st.sampled_from([(), (), (10,), (10, 11), (NEVER, 10)]),
        ahead=st.sampled_from([0, 0, 0, 1, 2, 15]), everybody=st.booleans(), steps=st.sampled_from([0, 1, 1, 2, 3]),
    )  # fmt: skip
    def order(
        self, data: st.DataObject, right: int, wrong: tuple[int, ...], ahead: int, everybody: bool, steps: int
    ) -> None:
        waiting = self.engine.waiting_for_edge()
        for asked in waiting if everybody else [data.draw(st.sampled_from(waiting))]:
            self.engine.order(asked, [*self.engine.right(asked, right), *wrong][:DRAFTS], ahead)
        self.step(steps)

    @rule(count=st.integers(1, 4))
    def step(self, count: int) -> None:
        for _ in range(count):
            if self.engine.has_work:
                self.engine.step()
                self.stages_and_queues()

    @precondition(lambda self: self.engine.live())
    @rule(data=st.data(), in_step=st.booleans(), in_flight=st.booleans())
    def abort(self, data: st.DataObject, in_step: bool, in_flight: bool) -> None:
        live = self.engine.live()
        unfinished = [asked for asked in live if self.engine.stage(asked) is Stage.IN_FLIGHT]
        asked = data.draw(st.sampled_from(unfinished if in_flight and unfinished else live))
        count_stages("abort", self.engine, asked.name)
        if in_step:
            self.engine.abort_in_step(asked)
        else:
            self.engine.abort(asked)

    @rule()
    def reset(self) -> None:
        count_stages("reset", self.engine, *self.engine.asked)
        self.engine.reset()

    @rule(steps=st.integers(0, 2))
    def pause(self, steps: int) -> None:
        self.engine.pause()
        self.step(steps)
        for asked in self.engine.waiting_for_edge():
            self.engine.order(asked, self.engine.right(asked, 2))
        self.step(steps)
        self.engine.resume()

    @invariant()
    def stages_and_queues(self) -> None:
        if hasattr(self, "engine"):
            check(self.engine)

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            settle(self.engine)


def count_stages(what: str, engine: Engine, *names: str) -> None:
    """Count what happens to sessions, by their stages."""
    for name in names:
        if (stage := engine.stage(engine.asked[name])) is not None:
            PLAYED[f"{what} {stage.name}"] += 1


def check(engine: Engine) -> None:
    """What holds between any two steps."""
    scheduler = engine.scheduler
    queued = [*scheduler.running, *scheduler.waiting, *scheduler.kv_holding_waiting]
    names = [request.request_id for request in queued]
    assert len(names) == len(set(names)), names
    assert {request.request_id for request in scheduler.deferred_waiting} <= set(names)
    assert len(scheduler.running) <= scheduler.max_num_running_reqs
    for name, request in scheduler.requests.items():
        session = scheduler._book.get(name)
        assert (name in names) == (session is None or session.stage is Stage.QUEUED), engine.describe()
        if session is None or session.stage is Stage.QUEUED:
            continue
        blocks = sum(len(group) for group in scheduler.kv_cache_manager.get_block_ids(name))
        assert (session.stage is Stage.EVICTED) == (not blocks), (session.stage, blocks)
        assert (session.stage is Stage.IN_FLIGHT) == bool(session._begun), "a step is not accounted for"
        assert session.stage is not Stage.READY or session.to_schedule == session.round.steps_left
        assert (session.stage is Stage.IN_FLIGHT) == (request.num_in_flight_tokens > 0), session.stage
        assert (
            session.round.over == (session.stage in (Stage.PARKED, Stage.EVICTED)) or session.stage is Stage.IN_FLIGHT
        )


def settle(engine: Engine) -> None:
    """Everybody gets an end, and nothing is left."""
    for _ in range(CONTEXT + 2):
        engine.run(600)
        check(engine)
        if not engine.live():
            break
        waiting = engine.waiting_for_edge()
        assert len(waiting) == len(engine.live()), f"stands still: {engine.describe()}"
        for asked in waiting:
            engine.order(asked, engine.right(asked, DRAFTS))
    assert not engine.live(), engine.describe()
    engine.add("last", (1, 2), 1, ahead=None)  # its step tells the worker of the end of all others
    engine.run()
    engine.run()
    assert engine.asked["last"].over
    assert not engine.scheduler.requests
    assert engine.scheduler.pipesd_stats()["sessions"] == 0
    assert engine.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == engine.free_blocks
    assert not engine.held_by_worker()
    PLAYED.update({f"{what}, {engine.kind.name}": count for what, count in engine.counts.items()})
    PLAYED[f"schedule, {engine.kind.name}"] += 1


def main() -> None:
    run_state_machine_as_test(
        Schedules,
        settings=settings(
            max_examples=SCHEDULES,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    missing = [name for name in EXPECTED if not PLAYED[name]]
    assert not missing, f"{missing} never happened in {PLAYED}: this proves little"
    print(f"{dict(sorted(PLAYED.items()))}\n{SCHEDULES} schedules and more passed")


if __name__ == "__main__":
    main()
