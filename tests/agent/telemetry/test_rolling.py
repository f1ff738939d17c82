"""The mean of the last few values."""

from __future__ import annotations

import numpy as np
import pytest

from pipesd_agent.telemetry.rolling import Rolling


def test_rolling_is_numpy_s() -> None:
    rolling = Rolling(7)
    assert (rolling.mean, rolling.least, rolling.deviation, rolling.error) == (None, None, 0.0, 0.0)
    values = np.random.default_rng(0).uniform(0, 1, 10_000)
    for value in values:
        rolling.add(value)
    assert rolling.mean == pytest.approx(values[-7:].mean())
    assert rolling.deviation == pytest.approx(values[-7:].std(ddof=1))
    assert rolling.least == values[-7:].min()
    assert rolling.values() == tuple(values[-7:])
