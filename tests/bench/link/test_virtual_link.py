"""The virtual link, its rates, and the scenarios' data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.link.model import Rate, begin, finish
from bench.link.virtual import Link
from bench.proving.simulator.scenario import MBIT, PAPER, SCENARIOS, SWEEP


def test_messages_keep_their_order_and_share_the_rate() -> None:
    link = Link(Rate((8000.0,)), 0.5)
    assert [link.send(0.0, 100), link.send(0.0, 300), link.send(10.0, 100)] == [0.6, 0.9, 10.6]


def test_a_message_goes_on_at_the_next_rate() -> None:
    rate = Rate((8000.0, 80.0, 8000.0), period_s=1.0)
    assert finish(rate, 0.9, 100) == pytest.approx(0.9 + 0.1)
    assert finish(rate, 0.95, 60) == pytest.approx(1.0 + 1.0)
    assert finish(rate, 5.0, 1000) == pytest.approx(6.0)


def test_room_is_when_little_is_unsent() -> None:
    link = Link(Rate((8000.0,)), 0.5)
    link.send(0.0, 3000)
    assert link.room_at(1000) == pytest.approx(2.0)
    assert link.room_at(4000) == 0.0


@given(
    steps=st.lists(st.floats(10.0, 1e6), min_size=1, max_size=5),
    start=st.floats(0.0, 6.0),
    size=st.floats(0.1, 1e5),
)
def test_begin_undoes_finish(steps: list[float], start: float, size: float) -> None:
    rate = Rate(tuple(steps), period_s=1.0)
    assert begin(rate, finish(rate, start, size), size) == pytest.approx(start, abs=1e-6)


def test_scenario_4_is_redrawn_and_always_the_same() -> None:
    up, down = PAPER[3].up, PAPER[3].down
    assert 10 * MBIT <= min(up.steps) < 15 * MBIT < 75 * MBIT < max(up.steps) <= 80 * MBIT
    assert 150 * MBIT <= min(down.steps) < max(down.steps) <= 280 * MBIT
    assert up.at(19.9) == up.steps[0] != up.at(20.1)
    assert [round(x / MBIT, 2) for x in up.steps[:2]] == [29.61, 42.28]


def test_names_are_unique() -> None:
    assert len({scenario.name for scenario in (*SCENARIOS, *SWEEP)}) == len(SCENARIOS) + len(SWEEP) == 14


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Rate((1.0, 0.0))
