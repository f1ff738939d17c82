"""Windows of about a hundred tokens."""

from __future__ import annotations

import pytest

from pipesd_agent.telemetry.windows import MOST_S, Window, Windows


def test_windows() -> None:
    full: list[Window] = []
    windows = Windows(full.append)
    assert windows.mean(4) is None
    for _ in range(60):
        windows.add(5, 0.1, verification=True, verified=4, accepted=4)
        windows.add(1, MOST_S + 1, verification=False, verified=0, accepted=0)  # left out
    assert len(full) == 3
    mean = windows.mean(2)
    assert mean is not None
    assert (mean.tokens, mean.verifications, mean.forwards, mean.verified, mean.accepted) == (200, 40, 40, 160, 160)
    assert mean.tpot_s == pytest.approx(0.02)
    assert mean.verifications_per_token == pytest.approx(0.2)
