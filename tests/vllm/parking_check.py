"""Run under .venv-vllm's python by test_vllm_parking.py: the parking scheduler, for both runners and both loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from scripted_engine import KINDS, NEVER, Asked, Engine, Kind

PROMPT: Final = (100, 101, 102, 103, 104)


def a_session_parks_after_its_first_token_and_after_each_round(kind: Kind) -> None:
    engine = Engine(kind)
    session = engine.add("s", PROMPT)
    engine.run()
    assert len(session.got) == 1
    assert engine.scheduler.pipesd_stats()["parked"] == 1
    assert not engine.scheduler.running
    engine.order(session, [*engine.right(session, 2), 10])
    engine.run()
    assert len(session.got) == 4
    engine.order(session)
    assert engine.scheduler.verify([(session.key, [], 0, 0.0)]) == ["no such session is parked"]
    engine.run()
    assert len(session.got) == 5
    assert len(engine.steps) == 3


def an_order_is_checked(kind: Kind) -> None:
    engine = Engine(kind)
    session = engine.add("s", PROMPT)
    engine.run()
    for drafts, fault in (([-1], "is not a token id"), ([10**6], "is not a token id"), ([1] * 5, "the limit of one")):
        assert fault in engine.scheduler.verify([(session.key, drafts, 0, 0.0)])[0]
    assert engine.scheduler.pipesd_stats()["parked"] == 1


def a_free_run_is_counted_when_it_is_scheduled(kind: Kind) -> None:
    engine = Engine(kind)
    session = engine.add("s", PROMPT, ahead=2)
    engine.run()
    assert len(session.got) == 3
    drafts = engine.right(session, 2)
    engine.order(session, drafts, 2)
    engine.run()
    assert len(session.got) == 8
    steps = [step["s"] for step in engine.steps]
    assert steps == [(5, ()), (1, ()), (1, ()), (3, tuple(drafts)), (1, ()), (1, ())]


def ordinary_requests_get_no_placeholders_for_drafts(kind: Kind) -> None:
    engine = Engine(kind)
    ordinary = engine.add("o", PROMPT, 6, ahead=None)
    session = engine.add("s", PROMPT)
    for _ in range(3):
        engine.step()
    engine.order(session, engine.right(session, 2))
    engine.run()
    assert ordinary.over
    steps = [step["o"] for step in engine.steps if "o" in step]
    assert steps == [(5, ()), *[(1, ())] * 5]


def drafts_that_a_step_has_no_room_for_wait_for_its_output(kind: Kind) -> None:
    engine = Engine(kind, budget=16)
    session = engine.add("s", PROMPT)
    engine.run()
    ordinary = engine.add("o", [7] * 40, 2, ahead=None)
    engine.step()
    engine.order(session, engine.right(session, 4), 1)
    engine.run()
    assert len(session.got) == 7
    assert ordinary.over
    assert engine.scheduler.pipesd_stats()["parked"] == 1


def a_round_larger_than_a_step_is_done_in_parts(kind: Kind) -> None:
    engine = Engine(kind, slots=2, budget=3)
    session = engine.add("s", PROMPT)
    engine.run()
    engine.order(session, engine.right(session, 4), 1)
    engine.run()
    assert len(session.got) == 7


def a_grammar_shortens_drafts(kind: Kind) -> None:
    engine = Engine(kind)
    session = engine.add("s", PROMPT)
    engine.run()
    right = engine.right(session, 1)
    engine.order(session, [*right, NEVER, 10])
    engine.run()
    assert len(session.got) == 3
    assert engine.steps[-1]["s"] == (2, tuple(right))


def parked_sessions_give_up_slots_of_a_worker_that_keeps_them(kind: Kind) -> None:
    engine = Engine(kind, slots=3)
    sessions = [engine.add(f"s{number}", [number, *PROMPT]) for number in range(5)]
    engine.run()
    figures = engine.scheduler.pipesd_stats()
    assert figures["parked"] + figures["evicted"] == 5
    assert figures["evictions"] == (2 if kind.v2 else 0)
    for session in sessions:
        engine.order(session, engine.right(session, 2))
        engine.run()
        assert len(session.got) == 4


def parked_sessions_give_up_blocks(kind: Kind) -> None:
    engine = Engine(kind, blocks=30)
    sessions = [engine.add(f"s{number}", [number] * 20, 30) for number in range(4)]
    engine.run()
    for _ in range(9):
        for session in sessions:
            engine.order(session, [*engine.right(session, 2), 11])
        engine.run()
    assert engine.scheduler.pipesd_stats()["evictions"] > 0
    assert all(len(session.got) == 28 for session in sessions)


def a_free_run_that_is_preempted_takes_its_steps_and_no_more(kind: Kind) -> None:
    engine = Engine(kind, blocks=18)
    sessions = [engine.add(f"s{number}", [number] * 16, ahead=10) for number in range(3)]
    engine.run()
    assert engine.counts["preempted" if kind.queue == 1 else "preempted with an output in flight"] > 0
    for session in sessions:
        engine.order(session, engine.right(session, 1))
        engine.run()
        assert len(session.got) == 13


def an_abort_leaves_nothing(kind: Kind) -> None:
    for when in (0, 1, 2):
        engine = Engine(kind)
        one, two = engine.add("s1", PROMPT), engine.add("s2", PROMPT)
        engine.run()
        for session in (one, two):
            engine.order(session, engine.right(session, 2), 1)
        for _ in range(when):
            engine.step()
        engine.abort(one)
        engine.run()
        assert len(two.got) == 5
        assert engine.scheduler.pipesd_stats()["sessions"] == 1
        engine.abort(two)
        engine.run()
        assert not engine.scheduler.requests


def max_tokens_ends_a_session_in_mid_round(kind: Kind) -> None:
    engine = Engine(kind)
    session = engine.add("s", PROMPT, 4)
    engine.run()
    engine.order(session, engine.right(session, 3))
    engine.run()
    assert session.over
    assert engine.scheduler.pipesd_stats()["sessions"] == 0
    assert not engine.scheduler.requests


def a_cache_reset_finds_sessions_wherever_they_are(kind: Kind) -> None:
    """Parked, ordered, in a step, in a free run, evicted, and while they are prefilled."""
    for steps in range(4):
        engine = Engine(kind, budget=24)
        parked, ordered, free = (engine.add(name, PROMPT) for name in ("parked", "ordered", "free"))
        engine.run()
        engine.order(ordered, [*engine.right(ordered, 2), 10])
        engine.order(free, engine.right(free, 1), 3)
        engine.add("prefilled", [5] * 30)
        for _ in range(steps):
            engine.step()
        engine.reset()
        engine.reset()
        engine.run()
        assert [len(asked.got) for asked in (parked, ordered, free)] == [1, 4, 6]
        assert engine.scheduler.pipesd_stats()["sessions"] == 4
        for asked in engine.waiting_for_edge():
            engine.order(asked, engine.right(asked, 3))
        engine.run()
        assert [len(asked.got) for asked in (parked, ordered, free)] == [5, 8, 10]


def a_paused_core_sleeps_whatever_is_ordered(kind: Kind) -> None:
    engine = Engine(kind, active=1)
    sessions = [engine.add(name, PROMPT) for name in ("s1", "s2")]
    engine.run()
    engine.pause()
    for session in sessions:
        engine.order(session, engine.right(session, 2))
    engine.run()
    assert [len(session.got) for session in sessions] == [1, 1]
    engine.resume()
    engine.run()
    assert [len(session.got) for session in sessions] == [4, 4]


def the_gauge_of_running_requests_is_true_when_the_core_sleeps(kind: Kind) -> None:
    engine = Engine(kind)
    sessions = [engine.add(f"s{number}", PROMPT) for number in range(3)]
    engine.run()
    assert engine.running_shown == 0
    for session in sessions:
        engine.order(session, engine.right(session, 2), 1)
    engine.run()
    assert engine.running_shown == 0


def let_in(kind: Kind, sessions: int, slots: int, active: int, budget: int, drafts: int) -> None:
    """Ordinary requests beside sessions whose orders come as fast as their rounds end."""
    engine = Engine(kind, slots=slots, active=active, budget=budget)
    busy = [engine.add(f"s{number}", PROMPT, 59) for number in range(sessions)]
    engine.run()
    ordinary: list[tuple[Asked, int]] = []
    for turn in range(70):
        if turn % 5 == 2 and len(ordinary) < 4:
            ordinary.append((engine.add(f"o{turn}", PROMPT, 8, ahead=None), len(engine.steps)))
        for asked in engine.waiting_for_edge():
            engine.order(asked, engine.right(asked, drafts))
        engine.step()
    last = 0
    for asked, at in ordinary:
        assert asked.over, f"{asked.name}: {len(asked.got)} of 8 tokens"
        took = [step for step, of in enumerate(engine.steps) if asked.name in of]
        # One step's rounds and the step under way go first; later ones may have to wait for two before them.
        assert took[0] <= at + (3 if asked is ordinary[0][0] else 16), f"{asked.name} of {at} began at {took[0]}"
        assert took[-1] - took[0] == 7, "it is not held up once it runs"
        last = max(last, took[-1])
    together = engine.steps[ordinary[0][1] : min(last, ordinary[0][1] + 10)]
    assert sum(any(name.startswith("s") for name in step) for step in together) >= len(together) // 2, "sessions go on"
    assert all(asked.rounds > 0 for asked in busy)


def busy_sessions_let_a_request_in(kind: Kind) -> None:
    let_in(kind, sessions=40, slots=48, active=4, budget=512, drafts=1)


def sessions_that_hold_every_slot_let_a_request_in(kind: Kind) -> None:
    let_in(kind, sessions=4, slots=4, active=4, budget=512, drafts=1)


def sessions_whose_drafts_fill_every_step_let_a_request_in(kind: Kind) -> None:
    let_in(kind, sessions=13, slots=14, active=14, budget=65, drafts=4)


CHECKS: Final[tuple[Callable[[Kind], None], ...]] = (
    a_session_parks_after_its_first_token_and_after_each_round,
    an_order_is_checked,
    a_free_run_is_counted_when_it_is_scheduled,
    ordinary_requests_get_no_placeholders_for_drafts,
    drafts_that_a_step_has_no_room_for_wait_for_its_output,
    a_round_larger_than_a_step_is_done_in_parts,
    a_grammar_shortens_drafts,
    parked_sessions_give_up_slots_of_a_worker_that_keeps_them,
    parked_sessions_give_up_blocks,
    a_free_run_that_is_preempted_takes_its_steps_and_no_more,
    an_abort_leaves_nothing,
    max_tokens_ends_a_session_in_mid_round,
    a_cache_reset_finds_sessions_wherever_they_are,
    a_paused_core_sleeps_whatever_is_ordered,
    the_gauge_of_running_requests_is_true_when_the_core_sleeps,
    busy_sessions_let_a_request_in,
    sessions_that_hold_every_slot_let_a_request_in,
    sessions_whose_drafts_fill_every_step_let_a_request_in,
)


def main() -> None:
    for check in CHECKS:
        for kind in KINDS:
            try:
                check(kind)
            except AssertionError as error:
                raise AssertionError(f"{check.__name__}, {kind.name}") from error
    print(f"{len(CHECKS)} checks of {len(KINDS)} kinds passed")


if __name__ == "__main__":
    main()
