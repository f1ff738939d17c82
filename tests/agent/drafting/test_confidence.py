"""The logistic calibration and the AUC."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.confidences import auc, fit_logistic
from pipesd_agent.drafting.confidence import SAMPLED, Logistic


def test_logistic_stays_in_bounds_and_rises() -> None:
    values = [SAMPLED(m) for m in (-1e6, 0.0, 0.5, 3.0, 1e6)]
    assert values == sorted(values)
    assert all(0.0 <= v <= 1.0 for v in values)
    assert Logistic(0.0, 1.0)(0.0) == 0.5


def test_fit_finds_the_constants_that_made_the_data() -> None:
    rng = np.random.default_rng(1)
    margins = rng.exponential(2.0, 20_000)
    accepted = rng.random(20_000) < 1 / (1 + np.exp(0.7 - 1.3 * margins))
    fit = fit_logistic(margins, accepted)
    assert fit.intercept == pytest.approx(-0.7, abs=0.1)
    assert fit.slope == pytest.approx(1.3, abs=0.1)


@pytest.mark.parametrize("accepted", [[True] * 4, [False] * 4, [False, False, True, True]])
def test_fit_of_separable_data_is_finite(accepted: list[bool]) -> None:
    fit = fit_logistic(np.array([0.0, 1.0, 2.0, 30.0]), np.array(accepted))
    assert math.isfinite(fit.intercept)
    assert math.isfinite(fit.slope)
    assert (fit(2.0) > 0.5) == accepted[2]


@pytest.mark.parametrize(("margins", "accepted"), [([], []), ([1.0], [True, False]), ([math.inf], [True])])
def test_fit_refuses_what_it_cannot_use(margins: list[float], accepted: list[bool]) -> None:
    with pytest.raises(ValueError, match="margins"):
        fit_logistic(np.array(margins), np.array(accepted))


def test_auc_by_hand() -> None:
    assert auc(np.array([1, 2, 3, 4]), np.array([False, False, True, True])) == 1.0
    assert auc(np.array([1, 2, 3, 4]), np.array([False, True, False, True])) == 0.75
    assert auc(np.array([1, 1, 1, 1]), np.array([False, True, False, True])) == 0.5
    assert math.isnan(auc(np.array([1, 2]), np.array([True, True])))
