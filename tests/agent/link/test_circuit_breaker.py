"""The breaker of one gateway, by clock readings alone."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from pipesd_agent.link.circuit_breaker import BACKOFF_FIRST_S, STABLE_S, CircuitBreaker, CircuitState

MOST = 10.0


def circuit() -> CircuitBreaker:
    """Without luck: always the longest wait."""
    return CircuitBreaker(lambda _, high: high)


def fail(of: CircuitBreaker, now: float, times: int = 1, most: float = MOST) -> float:
    """So many attempts that fail, each when it is due; returns when the last did."""
    for _ in range(times):
        now += of.wait(now)
        of.begin(now)
        of.failed(now, most)
    return now


def test_it_begins_closed() -> None:
    assert (circuit().state(0.0), circuit().wait(0.0), circuit().failures) == (CircuitState.CLOSED, 0.0, 0)


def test_a_failure_opens_it_and_half_opens_when_its_time_is_over() -> None:
    of = circuit()
    now = fail(of, 100.0)
    assert (of.state(now), of.failures) == (CircuitState.OPEN, 1)
    assert of.wait(now) == BACKOFF_FIRST_S
    assert of.state(now + BACKOFF_FIRST_S) is CircuitState.HALF_OPEN
    assert of.wait(now + BACKOFF_FIRST_S) == 0.0


def test_each_failure_doubles_the_time_up_to_the_most() -> None:
    of, now, waits = circuit(), 0.0, []
    for _ in range(7):
        now = fail(of, now)
        waits.append(of.wait(now))
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    now = fail(of, now, most=2.0)
    assert of.wait(now) == 2.0, "clients wait"


def test_an_attempt_before_its_time_does_not_make_the_next_come_later_still() -> None:
    of = circuit()
    now = fail(of, 0.0, 3)
    for _ in range(5):
        now += 0.01
        of.begin(now)
        of.failed(now, MOST)
        assert abs(of.wait(now) - 2.0) < 1e-9
    assert of.failures == 8


def test_a_connection_that_lasts_closes_it() -> None:
    of = circuit()
    now = fail(of, 0.0, 4)
    of.begin(now)
    of.connected(now)
    assert (of.state(now), of.wait(now)) == (CircuitState.HALF_OPEN, 0.0)
    assert of.state(now + STABLE_S) is CircuitState.CLOSED
    of.ended(now + STABLE_S, MOST)
    assert (of.state(now + STABLE_S), of.failures) == (CircuitState.CLOSED, 0)


def test_a_connection_that_dies_young_is_a_failure() -> None:
    of = circuit()
    now = fail(of, 0.0, 2) + 1.0
    of.begin(now)
    of.connected(now)
    of.ended(now + STABLE_S / 2, MOST)
    assert (of.state(now + STABLE_S / 2), of.failures) == (CircuitState.OPEN, 3)


def test_a_connection_that_was_given_up_is_none() -> None:
    of = circuit()
    of.begin(0.0)
    of.connected(0.0)
    of.left(0.1)
    assert (of.state(0.1), of.failures, of.wait(0.1)) == (CircuitState.CLOSED, 0, 0.0)


@given(
    st.lists(st.tuples(st.sampled_from(["fail", "connect", "end", "leave"]), st.floats(0, 20), st.floats(0, 1))),
    st.sampled_from([2.0, 10.0]),
)
def test_nothing_is_kept_waiting_for_longer_than_the_most(events: list[tuple[str, float, float]], most: float) -> None:
    luck = 0.0
    of, now, up = CircuitBreaker(lambda low, high: low + luck * (high - low)), 0.0, False
    for event, seconds, luck in events:  # noqa: B007 - read by the circuit
        now += seconds
        if up and event in ("end", "leave"):
            of.ended(now, most) if event == "end" else of.left(now)
            up = False
        elif not up and event in ("fail", "connect"):
            of.begin(now)
            up = event == "connect"
            of.connected(now) if up else of.failed(now, most)
        assert 0 <= of.wait(now) <= most
        assert (of.state(now) is CircuitState.OPEN) == (of.wait(now) > 0)
        assert of.state(now + most) is not CircuitState.OPEN
        assert up or (of.state(now) is CircuitState.CLOSED) == (of.failures == 0)
