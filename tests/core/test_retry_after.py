"""When a refused client is told to come back."""

from __future__ import annotations

import pytest

from pipesd_core import retry_after


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0.01, 1, 1.5), (1, 1, 1.5), (8, 8, 12), (39, 39, 58.5), (600, 40, 60)]
)
def test_it_is_spread_and_within_bounds(seconds: float, least: float, most: float) -> None:
    told = [retry_after.headers(seconds) for _ in range(200)]
    exact = [int(headers["retry-after-ms"]) / 1000 for headers in told]
    assert least <= min(exact) < max(exact) <= most + 0.001
    assert len(set(exact)) > 100, "they would all come back in one moment"
    for headers, precise in zip(told, exact, strict=True):
        assert abs(int(headers["retry-after"]) - precise) <= 0.5
        assert 1 <= int(headers["retry-after"]) <= 60


@pytest.mark.parametrize(("seconds", "whole"), [(0, 0), (0.2, 1), (1, 1), (7.1, 8), (1e9, 40)])
def test_in_a_message_of_the_link(seconds: float, whole: int) -> None:
    assert retry_after.whole(seconds) == whole
