"""The schedule of the fault suite, and its arithmetic."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from fault_plan import ANSWER_S, DETECTION_S, GRACE_S, OF_CLIENTS, SECONDS, Fault, Happened, Kind, bound_s, kills, links


def whole(seed: int) -> list[Fault]:
    return kills(seed, 3, 4) + links(seed, 3, 6)


def test_there_are_enough_of_every_kind() -> None:
    counts = Counter(fault.kind for fault in whole(1))
    assert counts.total() >= 100
    assert set(counts) == set(Kind)
    assert min(counts.values()) >= 3


def test_a_seed_is_a_schedule() -> None:
    assert whole(7) == whole(7) != whole(8)


@pytest.mark.parametrize("seed", range(20))
def test_faults_of_one_link_do_not_overlap(seed: int) -> None:
    """The end of one would else be the end of another."""
    for phase in (kills(seed, 3, 4), links(seed, 3, 7)):
        assert phase == sorted(phase, key=lambda fault: fault.at)
        for agent in range(3):
            mine = [f for f in phase if f.agent == agent and f.kind not in OF_CLIENTS]
            for before, after in pairwise(mine):
                assert before.at + SECONDS.get(before.kind, 0.0) < after.at


def test_what_meets_a_request() -> None:
    fault = Happened(Kind.HANG, 1, 10.0, 15.0)
    assert fault.meets(1, 14.0, 16.0)
    assert fault.meets(1, 9.0, 11.0)
    assert fault.meets(1, 15.5, 16.0)  # the link is not back at once
    assert not fault.meets(1, 20.0, 21.0)
    assert not fault.meets(1, 8.0, 10.0)
    assert not fault.meets(0, 14.0, 16.0)
    assert Happened(Kind.KILL_GATEWAY, None, 10.0, 15.0).meets(2, 11.0, 12.0)
    assert not Happened(Kind.VANISH, 1, 10.0, 15.0).meets(1, 11.0, 12.0)


def test_bounds_grow_with_the_faults_that_are_met() -> None:
    quiet = bound_s(0, 0.0, 3.0, [])
    assert quiet < ANSWER_S + 10
    assert bound_s(0, 0.0, 3.0, [Happened(Kind.HANG, 0, 1.0, 6.0)]) == quiet + DETECTION_S + GRACE_S
    assert bound_s(0, 0.0, 3.0, [Happened(Kind.CUT, 0, 1.0, 1.0)]) < quiet + 5
