"""A line through measurements that fade."""

from __future__ import annotations

import pytest

from pipesd_agent.telemetry.faded_line import FadedLine


def test_nothing_measured_is_the_prior() -> None:
    line = FadedLine(0.99, 2.5, 4.0)
    assert (line.slope, line.intercept(2.5), line.ratio) == (2.5, None, None)


def test_one_x_says_nothing_of_the_slope() -> None:
    line = FadedLine(0.99, 2.5, 4.0)
    for _ in range(50):
        line.add(3, 20)
    assert line.slope == pytest.approx(2.5)
    assert line.intercept(line.slope) == pytest.approx(12.5)
    assert line.ratio == pytest.approx(20 / 3)


def test_a_line_is_found_and_an_old_one_forgotten() -> None:
    line = FadedLine(0.9, 0.0, 1e-6)
    for slope, intercept in ((3.0, 7.0), (1.0, 20.0)):
        for x in (1, 4, 9) * 60:
            line.add(x, intercept + slope * x)
        assert line.slope == pytest.approx(slope, rel=0.01)
        assert line.intercept(line.slope) == pytest.approx(intercept, rel=0.01)


def test_neither_is_ever_negative() -> None:
    line = FadedLine(0.99, 1.0, 1.0)
    for x in (1, 2, 3) * 20:
        line.add(x, 10 - 3 * x)
    assert line.slope == 0.0
    assert FadedLine(0.99, 9.0, 1e9).intercept(5.0) is None
