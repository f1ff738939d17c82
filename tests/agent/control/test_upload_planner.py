"""The scheduler of an agent: what it is told, and what its sessions' batchers say then."""

from __future__ import annotations

import pytest

from pipesd_agent.control.batchers import BATCHERS, check_batcher
from pipesd_agent.control.plan_dp import optimal_plan
from pipesd_agent.control.upload_planner import LONGEST_WAIT_S, Planner
from pipesd_core.errors import ConfigError
from pipesd_core.protocol.messages import Ack, Draft, Resume

NARROW = 53_600, 2_400, 36_000
"""10 kbit/s."""
FAST = 27, 0.4, 36_000
PAPERS = 25_000, 116_000, 36_000


def test_names() -> None:
    for name in BATCHERS:
        check_batcher(name)
    with pytest.raises(ConfigError, match="batcher must be one of immediate, single, dp, expected, but is 'greedy'"):
        Planner("greedy")


@pytest.mark.parametrize(("name", "due"), [("immediate", True), ("single", False), ("dp", True), ("expected", True)])
def test_until_costs_are_known(name: str, due: bool) -> None:
    planner = Planner(name)
    batcher = planner.batcher()
    assert [batcher.due(n, 0.0) for n in (1, 2, 50)] == [due] * 3
    assert planner.costs is None
    assert planner.plan is None
    assert planner.plans == 0


@pytest.mark.parametrize("name", ["dp", "expected"])
def test_a_link_that_costs_nothing_gets_each_token_at_once(name: str) -> None:
    planner = Planner(name)
    planner.learn(*FAST)
    assert planner.plan == (1,) * (20 if name == "dp" else 40)
    batcher = planner.batcher()
    assert all(batcher.due(1, 0.036 * i) for i in range(100))


def test_the_paper_s_plan_follows_n_hat() -> None:
    planner = Planner("dp")
    planner.learn(*PAPERS)
    assert optimal_plan(20, *PAPERS) == planner.plan
    for _ in range(3):
        planner.lengths.add(5)
    assert planner.n_hat == 5
    assert (planner.plan, planner.plans) == ((1, 4), 2)
    batcher = planner.batcher()
    assert [batcher.due(n, 0.0) for n in (1, 1, 2, 3, 4, 1, 1)] == [True, False, False, False, True, True, False]


def test_a_plan_that_changes_in_a_round_holds_from_the_next_one_on() -> None:
    planner = Planner("dp")
    planner.learn(*PAPERS)
    planner.lengths.add(5)
    batcher = planner.batcher()
    assert batcher.due(1, 0.0)
    planner.learn(*FAST)
    assert not batcher.due(1, 0.0)
    batcher.reset()
    assert [batcher.due(1, 0.0), batcher.due(1, 0.0)] == [True, True]


def drafts(count: int) -> Draft:
    return Draft(0, 0, 0, (1,) * count)


def test_expected_waits_for_a_link_that_is_busy() -> None:
    planner = Planner("expected")
    planner.learn(*NARROW)
    for _ in range(100):
        planner.lengths.add(12)
    one, other = planner.batcher(), planner.batcher()
    idle = next(n for n in range(1, 12) if one.due(n, 10.0))
    one.reset()
    planner.sent(drafts(idle), 99, 10.0)
    planner.sent(drafts(2), 99, 10.0)
    planner.sent(Ack(0, 3), 99, 10.0)
    busy = [n for n in range(1, 13) if other.due(n, 10.0)]
    assert not busy or busy[0] > idle, "whoever has sent: the sessions share the link"
    other.reset()
    assert next(n for n in range(1, 12) if other.due(n, 11.0)) == idle


def test_expected_is_made_anew_with_costs_n_hat_and_all_lengths() -> None:
    planner = Planner("expected")
    planner.learn(*NARROW)
    assert sum(planner.plan or ()) == 40
    assert planner.plans == 1
    for _ in range(10):
        planner.lengths.add(10)
    assert sum(planner.plan or ()) == 20
    assert planner.plans == 2
    for _ in range(99):
        planner.lengths.add(10)
    assert planner.plan
    assert planner.plans == 2
    planner.lengths.add(10)
    assert planner.plan
    assert planner.plans == 3, "a hundred lengths after the one before"
    planner.learn(*PAPERS)
    assert planner.plan
    assert planner.plan
    assert planner.plans == 4


@pytest.mark.parametrize("name", BATCHERS)
def test_there_is_room_when_the_link_has_sent_what_it_was_given(name: str) -> None:
    planner = Planner(name)
    planner.sent(Draft(0, 0, 5, (7, 8)), 70, 10.0)
    assert planner.room_at() == 0.0, "nothing is known of the link"
    planner.learn(*NARROW)
    planner.sent(Draft(0, 0, 5, (7, 8)), 70, 10.0)
    assert planner.room_at() == pytest.approx(10.0584)
    planner.sent(Ack(0, 3), 60, 10.02)
    assert planner.room_at() == pytest.approx(10.112)
    planner.sent(Ack(0, 4), 60, 20.0)
    assert planner.room_at() == pytest.approx(20.0536), "it was idle in between"


def test_room_is_not_waited_for_long_whatever_the_link_is_believed_to_be() -> None:
    planner = Planner("single")
    planner.learn(9e6, 1e6, 100)
    planner.sent(Ack(0, 3), 60, 10.0)
    assert planner.room_at() == 10.0 + LONGEST_WAIT_S
    for _ in range(100):
        planner.sent(Ack(0, 3), 60, 10.1)
    planner.learn(*FAST)
    planner.sent(Ack(0, 3), 60, 11.0)
    assert planner.room_at() < 11.01, "nothing of that is owed once it is known better"


def test_nothing_is_on_a_new_link() -> None:
    planner = Planner("single")
    planner.learn(*NARROW)
    planner.sent(Ack(0, 3), 60, 10.0)
    planner.sent(Resume(0, bytes(16), 3), 80, 10.01)
    assert planner.room_at() == pytest.approx(10.0636)
    planner.restart()
    assert planner.room_at() == 0.0
