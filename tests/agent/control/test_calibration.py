"""Confidence fitted online: on made-up positions whose law is known.

On recorded ones: tests/bench/methods/test_bench_triggers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from pipesd_agent.control.calibration import MEMORY, REFIT, WARM, Calibration, SessionCalibration, Weights
from pipesd_agent.drafting.confidence import SAMPLED
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_agent.session.counts import Counts
from pipesd_core.protocol.messages import Opened
from pipesd_core.sampling.params import SamplingParams

OTHER_PAIR = Weights(1.5, 0.4, -1.8)


def made(law: Weights, count: int, seed: int = 3) -> Iterator[tuple[DraftToken, bool]]:
    """Drafted tokens with the drafter's confidence, right as often as `law` says."""
    rng = np.random.default_rng(seed)
    for position in range(count):
        margin, entropy = float(rng.exponential(2.0)), float(rng.exponential(1.0))
        token = DraftToken(position, 1, SAMPLED(margin), margin, entropy)
        yield token, bool(rng.random() < law(token))


def loss(probability: float, right: bool) -> float:
    return -math.log(max(1e-3, probability if right else 1 - probability))


def play(calibration: Calibration, law: Weights, count: int, seed: int = 3) -> float:
    """Nats a token gained over the drafter's confidence, each token being predicted before it is judged."""
    gained = 0.0
    for token, right in made(law, count, seed):
        gained += loss(token.confidence, right) - loss(calibration.confidence(token), right)
        calibration.judged(token, right)
    return gained / count


def test_it_finds_the_law_of_another_pair() -> None:
    calibration = Calibration()
    assert play(calibration, OTHER_PAIR, 4000) > 0.05
    assert calibration.used
    assert calibration.gain == pytest.approx(play(calibration, OTHER_PAIR, 1000, seed=4), abs=0.03)
    for token, _ in made(OTHER_PAIR, 50, seed=5):
        assert calibration.confidence(token) == pytest.approx(OTHER_PAIR(token), abs=0.08)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_not_worse_than_the_drafter_where_that_is_right(seed: int) -> None:
    right_already = Weights(SAMPLED.intercept, SAMPLED.slope, 0.0)
    assert play(Calibration(), right_already, 3000, seed) > -0.003


def test_it_follows_another_text() -> None:
    calibration = Calibration()
    play(calibration, OTHER_PAIR, 4000)
    worse = Weights(-2.0, 0.5, -0.3)
    play(calibration, worse, MEMORY, seed=8)
    assert play(calibration, worse, 1000, seed=9) > 0.05


def test_until_enough_was_judged_the_drafter_s_confidence_stays() -> None:
    calibration = Calibration()
    for token, right in made(OTHER_PAIR, REFIT + WARM - 1):
        assert calibration.confidence(token) == token.confidence
        calibration.judged(token, right)
    assert calibration.weights is not None
    assert not calibration.used


def test_what_has_no_margin_keeps_its_confidence_and_teaches_nothing() -> None:
    calibration = Calibration()
    looked_up = DraftToken(0, 1, 0.35)
    for _ in range(2 * REFIT):
        calibration.judged(looked_up, right=False)
    assert calibration.weights is None
    play(calibration, OTHER_PAIR, 1000)
    assert calibration.used
    assert calibration.confidence(looked_up) == 0.35


def test_all_right_or_all_wrong_is_fitted_too() -> None:
    for right in (True, False):
        calibration = Calibration()
        for token, _ in made(OTHER_PAIR, 3 * REFIT):
            calibration.judged(token, right)
            assert 0.0 <= calibration.confidence(token) <= 1.0


def test_margins_that_say_the_opposite_are_not_used() -> None:
    calibration = Calibration()
    play(calibration, Weights(2.0, -1.0, 0.0), 1000)
    assert calibration.weights is None or calibration.weights.margin > 0


def test_equal_runs_are_equal() -> None:
    one, two = Calibration(), Calibration()
    assert play(one, OTHER_PAIR, 1500) == play(two, OTHER_PAIR, 1500)
    assert one.weights == two.weights


def opened(temperature: float) -> Opened:
    return Opened(0, bytes(16), (1, 2), SamplingParams(temperature=temperature, seed=1), 99, (), "m")


def test_a_session_calibrates_by_its_kind_of_sampling_and_teaches_it() -> None:
    greedy, sampled = Calibration(), Calibration()
    play(sampled, Weights(-3.0, 0.5, 0.0), 2000)
    token = DraftToken(0, 1, 0.9, margin=2.0)
    session = SessionCalibration({False: greedy, True: sampled})
    assert session.calibrated(token) is token, "nobody knows yet how it is sampled"
    session.judged(token, True, 0.0)
    session.opened(opened(0.0), Counts(), 0.0)
    assert session.calibrated(token) is token, "too little is known"
    session.opened(opened(1.0), Counts(), 0.0)
    calibrated = session.calibrated(token)
    assert calibrated.confidence == sampled.confidence(token) < 0.3
    assert calibrated.drafter_confidence == 0.9
    gained = sampled.gain
    session.judged(calibrated, False, 0.0)
    assert sampled.gain > gained, "it is compared with what the drafter said"
