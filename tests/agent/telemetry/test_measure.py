"""The small figures that the monitor is made of."""

from __future__ import annotations

import numpy as np
import pytest

from pipesd_agent.telemetry.acceptance import BOUNDS, Acceptance
from pipesd_agent.telemetry.change import Change
from pipesd_agent.telemetry.frames import Frames
from pipesd_agent.telemetry.rolling import Rolling
from pipesd_agent.telemetry.target import Verifying
from pipesd_agent.telemetry.windows import MOST_S, Window, Windows


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


def test_frames_tell_an_empty_one_from_its_tokens() -> None:
    frames = Frames()
    assert frames.token_bytes > 0
    for _ in range(50):
        frames.sent(1, 20)
    assert frames.empty_bytes + frames.token_bytes == pytest.approx(20)
    for tokens in (1, 3, 8) * 50:
        frames.sent(tokens, 17 + 5 * tokens)
    assert frames.token_bytes == pytest.approx(5, rel=0.05)
    assert frames.empty_bytes == pytest.approx(17, abs=1)


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
