"""The target's time for a step."""

from __future__ import annotations

import numpy as np
import pytest

from pipesd_agent.telemetry.target import Verifying


def test_verifying_tells_base_from_rows() -> None:
    verifying = Verifying()
    assert (verifying.base_s, verifying.seconds(3), verifying.queue_s) == (None, None, None)
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = int(rng.integers(1, 17))
        verifying.stepped(rows, int(1e6 * (0.0052 + 0.00037 * rows) * rng.uniform(0.9, 1.1)), 2000)
    assert verifying.row_s == pytest.approx(0.00037, rel=0.15)
    assert verifying.seconds(9) == pytest.approx(0.0052 + 9 * 0.00037, rel=0.05)
    assert verifying.queue_s == pytest.approx(0.002)


def test_verifying_where_all_steps_are_of_one_size() -> None:
    verifying = Verifying()
    for _ in range(50):
        verifying.stepped(1, 40_000, 0)
        verifying.stepped(3, 0, 0)  # not measured
    assert verifying.seconds(1) == pytest.approx(0.04)
    assert verifying.row_s <= 0.001
