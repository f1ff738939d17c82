"""The arithmetic of bench/vllm."""

from __future__ import annotations

import numpy as np
import pytest

from bench.vllm import numbers


def test_an_estimate_is_the_median_between_its_bounds() -> None:
    value = numbers.estimate([5.0, 1.0, 3.0, 2.0, 4.0])
    assert value.median == 3.0
    assert 1.0 <= value.low < 3.0 < value.high <= 5.0


def test_the_ratio_is_that_of_the_medians() -> None:
    value = numbers.estimate([2.0, 40.0, 6.0], [1.0, 10.0, 4.0])
    assert value.median == 6.0 / 4.0


def test_what_disturbs_both_alike_cancels_out() -> None:
    load_ = np.exp(np.random.default_rng(1).normal(0, 1, 15))
    value = numbers.estimate(list(1.2 * load_), list(load_))
    assert (value.low, value.high) == pytest.approx((1.2, 1.2))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        base = rng.lognormal(0, 0.1, 12)
        value = numbers.estimate(list(base * rng.lognormal(np.log(1.1), 0.05, 12)), list(base))
        inside += value.low <= 1.1 <= value.high
    assert inside >= 85


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        numbers.estimate([])


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_drafts_are_wrong_at_the_rate_and_stay_in_the_vocabulary(rate: float) -> None:
    ids = [token % 50 for token in range(5000)]
    got = numbers.corrupt(ids, rate, 50, np.random.default_rng(3))
    wrong = sum(a != b for a, b in zip(ids, got, strict=True)) / len(ids)
    assert wrong == pytest.approx(rate, abs=0.02)
    assert all(type(token) is int and 0 <= token < 50 for token in got)


def test_time_within_spans_is_what_they_share() -> None:
    begin, end = np.array([0.0, 2.5, 9.0]), np.array([10.0, 3.5, 9.5])
    starts, ends = np.array([1.0, 3.0, 6.0]), np.array([2.0, 5.0, 7.0])
    assert numbers.shared(begin, end, starts, ends).tolist() == [4.0, 0.5, 0.0]
