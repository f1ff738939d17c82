"""When a figure has moved."""

from __future__ import annotations

from pipesd_agent.telemetry.change import Change


def test_a_change_is_more_than_a_fifth_and_more_than_noise() -> None:
    change = Change()
    assert change.moved(1.0, 0.01), "the first"
    assert not change.moved(1.15, 0.0)
    assert not change.moved(1.5, 0.3), "may be noise"
    assert change.moved(1.25, 0.01)
    assert change.noted == 1.25
    assert not change.moved(1.1, 0.0), "a fifth of the new one"


def test_a_change_from_nothing_must_be_of_some_size() -> None:
    change = Change(least=0.5)
    assert change.moved(0.0, 0.0)
    assert not change.moved(0.4, 0.0)
    assert change.moved(0.6, 0.0)
    assert change.moved(0.0, 0.0)
