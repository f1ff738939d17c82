"""Occupancy of links whose truth is known: narrow, fast, noisy, with clocks and delays that move."""

from __future__ import annotations

import numpy as np
import pytest
from links import PERIOD_S, constant, drive

from pipesd_agent.telemetry.uplink import HEADER_BYTES, KEPT, Occupancy, Uplink

BYTES = 26.0


def costs(told: list[tuple[float, Occupancy]]) -> np.ndarray:
    """Seconds of a usual draft message."""
    return np.array([occupancy.message_s + occupancy.byte_s * BYTES for _, occupancy in told])


def true_cost(rate: float, extra_s: float = 0.0) -> float:
    return extra_s + (BYTES + HEADER_BYTES) * 8 / rate


@pytest.mark.parametrize(("rate", "jitter_s"), [(30e3, 0.0), (30e3, 0.003), (100e3, 0.0), (100e3, 0.003), (1e6, 0.0)])
def test_a_narrow_link(rate: float, jitter_s: float) -> None:
    told = drive(Uplink(), constant(rate), 60, jitter_s=jitter_s)
    errors = np.abs(costs(told) / true_cost(rate) - 1)
    assert np.median(errors) < 0.06
    assert np.mean(errors < 0.2) > 0.98
    slopes = np.array([occupancy.byte_s for _, occupancy in told]) * rate / 8
    assert np.median(np.abs(slopes - 1)) < 0.1


@pytest.mark.parametrize("jitter_s", [0.0, 0.001, 0.003, 0.01])
@pytest.mark.parametrize("drift", [0.0, 1e-4])
def test_a_fast_link_comes_out_as_nothing_and_not_as_noise(jitter_s: float, drift: float) -> None:
    told = drive(Uplink(), constant(20e6), 60, jitter_s=jitter_s, drift=drift)
    assert np.mean(costs(told) == 0.0) > 0.97
    assert costs(told).max() < 0.005


def test_clock_drift_is_no_rate() -> None:
    told = drive(Uplink(), constant(30e3), 100, jitter_s=0.002, drift=1e-4)
    assert np.median(np.abs(costs(told) / true_cost(30e3) - 1)) < 0.05


@pytest.mark.parametrize("rate", [30e3, 100e3, 20e6])
def test_a_delay_that_jumps_is_no_rate(rate: float) -> None:
    def delay(now: float) -> float:
        return 0.0125 if now < 40 else 0.06 if now < 80 else 0.02

    told = drive(Uplink(), constant(rate), 120, jitter_s=0.002, delay=delay)
    if rate > 1e6:
        assert np.mean(costs(told) < 0.001) > 0.97
    else:
        assert np.mean(np.abs(costs(told) / true_cost(rate) - 1) < 0.2) > 0.95


def test_a_cost_of_each_message_is_told_from_one_of_each_byte() -> None:
    told = drive(Uplink(), constant(20e6), 120, extra_s=0.025, jitter_s=0.001)
    _, last = told[-1]
    assert last.message_s == pytest.approx(0.025, rel=0.1)
    assert last.byte_s < 2e-5


def test_steps_are_followed_within_two_seconds_in_spite_of_jitter() -> None:
    rates = np.random.default_rng(5).uniform(10e3, 80e3, 10)
    told = drive(Uplink(), lambda now: rates[int(now // 20) % 10], 200, jitter_s=0.001)
    late = [(now, cost) for (now, _), cost in zip(told, costs(told), strict=True) if now % 20 > 2]
    errors = [abs(cost / true_cost(rates[int(now // 20) % 10]) - 1) for now, cost in late]
    assert np.median(errors) < 0.05
    assert np.mean(np.array(errors) < 0.2) > 0.9


def test_no_stamps_no_estimate() -> None:
    uplink = Uplink()
    for number in range(3 * KEPT):
        assert uplink.sent(30, number * 0.01) == number
    assert uplink.occupancy == Occupancy()
    assert uplink.arrived(5, 1.0, PERIOD_S) is None, "long forgotten"
    assert uplink.arrived(3 * KEPT, 1.0, PERIOD_S) is None, "never sent"


def test_the_clock_goes_on_where_stamps_begin_anew() -> None:
    uplink = Uplink()
    first, second = uplink.sent(30, 0.0), uplink.sent(30, 1.0)
    assert uplink.arrived(first, PERIOD_S - 0.25, PERIOD_S) == pytest.approx(PERIOD_S - 0.25)
    assert uplink.arrived(second, 0.75, PERIOD_S) == pytest.approx(PERIOD_S + 0.75)


def test_messages_without_a_stamp_are_reckoned_with() -> None:
    """Every third message is told of; of the others only that they were sent is known."""
    uplink = Uplink()
    now = free = 0.0
    rng = np.random.default_rng(1)
    for number in range(600):
        size = 1000 if number % 100 == 0 else 40
        uplink.sent(size, now)
        free = max(free, now) + (size + HEADER_BYTES) * 8 / 20e3
        if number % 3 == 0:
            uplink.arrived(number, free + 7.0, PERIOD_S)
        now += 0.036 * rng.uniform(0.5, 1.9)
    assert uplink.occupancy.byte_s == pytest.approx(8 / 20e3, rel=0.1)


def test_another_gateway_has_another_clock() -> None:
    uplink = Uplink()
    drive(uplink, constant(30e3), 30, clock_s=100.0)
    before = uplink.occupancy
    uplink.restart()
    assert uplink.occupancy == before, "the link may be the same"
    drive(uplink, constant(30e3), 30, clock_s=3000.0)
    assert uplink.occupancy.byte_s == pytest.approx(8 / 30e3, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_senseless_stamps_do_no_harm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uplink = Uplink()
    for number in range(2000):
        uplink.sent(int(rng.integers(0, 5000)), float(number) * 0.02)
        uplink.arrived(int(rng.integers(0, number + 5)), float(rng.uniform(0, PERIOD_S)), PERIOD_S)
    occupancy = uplink.occupancy
    assert np.isfinite([occupancy.message_s, occupancy.byte_s, occupancy.spread, uplink.constant]).all()
    assert occupancy.message_s >= 0
    assert occupancy.byte_s >= 0
