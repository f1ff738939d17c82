"""The book of the parking scheduler: stages of sessions, and what their rounds still have to schedule."""

from __future__ import annotations

import pytest

from pipesd_vllm.parking import HOLDING, Session, SessionBook, Stage


def opened(*names: str, ahead: int = 0) -> SessionBook:
    book = SessionBook()
    for name in names:
        book.open(name, f"key of {name}", object(), ahead, 10.0)
    return book


def session(ahead: int = 0) -> Session:
    found = opened("a", ahead=ahead).get("a")
    assert found is not None
    return found


def test_a_session_is_at_one_stage_and_found_by_request_and_key() -> None:
    book = opened("a", "b")
    a, b = book.get("a"), book.of_key("key of b")
    assert a is not None
    assert b is not None
    assert book.at(Stage.QUEUED) == [a, b]
    for stage in Stage:
        book.move(a, stage)
        assert a.stage is stage
        assert [kind for kind in Stage if a in book.at(kind)] == [stage]
    assert len(book) == 2
    assert book.count(*Stage) == 2
    assert book.count(*HOLDING) == 0


def test_the_first_of_a_stage_is_longest_there() -> None:
    book = opened("a", "b", "c")
    assert book.first(Stage.PARKED) is None
    for name in ("b", "a", "c"):
        found = book.get(name)
        assert found is not None
        book.move(found, Stage.PARKED)
    assert book.first(Stage.PARKED) is book.get("b")
    again = book.get("b")
    assert again is not None
    book.move(again, Stage.PARKED)
    assert book.first(Stage.PARKED) is book.get("a")


def test_a_closed_session_is_nowhere() -> None:
    book = opened("a", "b")
    for _ in range(2):
        book.close("a")
        assert book.get("a") is book.of_key("key of a") is None
        assert book.count(*Stage) == len(book) == 1


def test_one_step_is_all_of_a_round_without_steps_ahead() -> None:
    assert not session().scheduled(0, False, 11.0)


def test_a_free_run_is_counted_when_it_is_scheduled() -> None:
    free = session(ahead=2)
    assert [free.scheduled(0, False, 11.0 + step) for step in range(3)] == [True, True, False]
    free.stepped([7], 14.0)
    assert free.round.steps_left == 2, "the round's tokens are taken when they are there"


@pytest.mark.parametrize(("carried", "again"), [(3, True), (2, False), (0, False)])
def test_drafts_that_did_not_all_go_along_wait_for_the_output(carried: int, again: bool) -> None:
    drafted = session()
    drafted.order([1, 2, 3], 1, 11.0)
    assert drafted.owed == 3
    assert drafted.scheduled(carried, False, 12.0) is again


def test_the_rest_of_a_round_is_counted_anew() -> None:
    drafted = session()
    drafted.order([1, 2, 3], 1, 11.0)
    assert not drafted.scheduled(1, False, 12.0)
    drafted.stepped([1, 2], 13.0)
    drafted.count_anew()
    assert (drafted.owed, drafted.to_schedule) == (1, 2)
    assert drafted.scheduled(1, False, 14.0)
    assert not drafted.scheduled(0, False, 15.0)


def test_parts_of_a_prompt_decide_nothing_and_are_one_step() -> None:
    prompted = session(ahead=1)
    assert prompted.scheduled(0, True, 11.0)
    assert prompted.scheduled(0, True, 12.0)
    assert prompted.scheduled(0, False, 13.0)
    assert prompted.stepped([7], 14.0) == (1_000_000, 3_000_000)
    assert not prompted.scheduled(0, False, 14.5)


def test_steps_that_overlap_are_timed_from_the_output_before() -> None:
    free = session(ahead=1)
    free.scheduled(0, False, 12.0)
    free.scheduled(0, False, 13.0)
    assert free.stepped([7], 15.0) == (2_000_000, 3_000_000)
    assert free.stepped([8], 16.0) == (0, 1_000_000)


def test_a_session_whose_outputs_are_dropped_owes_them_again() -> None:
    free = session(ahead=2)
    assert free.scheduled(0, False, 11.0)
    free.stepped([7], 12.0)
    assert free.scheduled(0, False, 12.0)
    free.outputs_dropped()
    assert free.to_schedule == 2
    assert free.scheduled(0, True, 13.0)
    assert free.scheduled(0, False, 14.0)
    assert free.stepped([8], 15.0) == (1_000_000, 2_000_000)
