"""Places that are taken for a while, on a clock of the test's own."""

from __future__ import annotations

import pytest

from pipesd_core.occupancy import Occupancy


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def used(clock: Clock, places: int, hold_s: float, rounds: int) -> Occupancy:
    """All places, taken one after the other and each for `hold_s`, `rounds` times."""
    occupancy = Occupancy(clock)
    for _ in range(places):
        occupancy.take()
        clock.now += hold_s / places
    for _ in range(places * rounds):
        occupancy.free()
        occupancy.take()
        clock.now += hold_s / places
    return occupancy


@pytest.mark.parametrize(("places", "hold_s"), [(1, 3.0), (4, 10.0), (64, 2.0)])
def test_the_wait_is_that_of_the_places_and_of_those_ahead(places: int, hold_s: float) -> None:
    occupancy = used(Clock(), places, hold_s, rounds=20)
    for ahead in (0, 1, 16):
        assert occupancy.wait_s(ahead) == pytest.approx(hold_s * (ahead + 1) / places, rel=0.15)


def test_idle_time_does_not_count() -> None:
    clock = Clock()
    occupancy = used(clock, 2, 4.0, rounds=20)
    occupancy.free()
    occupancy.free()
    clock.now += 10_000
    occupancy.take()
    occupancy.take()
    assert occupancy.wait_s() == pytest.approx(2.0, rel=0.2)
    assert occupancy.taken == 2


def test_before_any_is_free_it_is_as_long_again() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    assert occupancy.wait_s() == 0
    for _ in range(4):
        occupancy.take()
    clock.now += 30
    assert occupancy.wait_s() == 30


def test_what_takes_longer_than_ever_is_noticed_before_it_ends() -> None:
    clock = Clock()
    occupancy = used(clock, 1, 1.0, rounds=40)
    clock.now += 100
    assert occupancy.wait_s() > 5


def test_the_latest_count_most() -> None:
    clock = Clock()
    occupancy = used(clock, 1, 60.0, rounds=40)
    for _ in range(60):
        occupancy.free()
        occupancy.take()
        clock.now += 1
    assert occupancy.wait_s() < 4
