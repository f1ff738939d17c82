"""The acceptance rate by confidence."""

from __future__ import annotations

import numpy as np
import pytest

from pipesd_agent.telemetry.acceptance import BOUNDS, Acceptance


def test_acceptance_by_confidence() -> None:
    acceptance = Acceptance()
    assert acceptance.rate is None
    rng = np.random.default_rng(0)
    for confidence in rng.uniform(0, 1, 20_000):
        acceptance.judged(confidence, bool(rng.uniform() < confidence))
    assert acceptance.rate == pytest.approx(0.5, abs=0.1)
    for group in acceptance.bins:
        assert group.right == pytest.approx(group.upto, abs=0.2)
        assert group.weight <= 201
    acceptance.judged(1.5, right=True)  # no confidence is out of bounds
    assert [group.upto for group in acceptance.bins] == list(BOUNDS)
