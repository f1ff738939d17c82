"""Made-up traces: always the same, consistent, and with the statistics that they were fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from bench.proving.traces import fit
from bench.proving.traces.stochastic import FITTED, Noise, draw, make_table
from bench.proving.traces.table import DEPTH


def test_equal_arguments_give_equal_tables() -> None:
    one, other = make_table("t", 2, 50, seed=3), make_table("t", 2, 50, seed=3)
    for a, b in zip(one.traces, other.traces, strict=True):
        np.testing.assert_array_equal(a.drafts, b.drafts)
        np.testing.assert_array_equal(a.confidence, b.confidence)
    assert not np.array_equal(one.traces[0].tokens, one.traces[1].tokens)


def test_rows_agree_with_each_other() -> None:
    """While row p is right, it says what row p+1 says one place earlier; astray as well."""
    trace = make_table("t", 1, 200).traces[0]
    for position in range(199):
        if trace.right(position) >= 1:
            np.testing.assert_array_equal(trace.confidence[position, 1:], trace.confidence[position + 1, :-1])
            np.testing.assert_array_equal(trace.drafts[position, 1:DEPTH], trace.drafts[position + 1, : DEPTH - 1])


def test_confidence_says_something_about_being_right() -> None:
    drawn = draw(FITTED, Noise.of(20_000, 3))
    sure = drawn.confidence > 0.95
    assert drawn.right[sure].mean() > 0.97
    assert 0.6 < drawn.right[~sure].mean() < 0.9


@pytest.mark.parametrize("method", list(fit.OBSERVED))
def test_draft_lengths_and_acceptance_are_the_authors(method: str) -> None:
    """Within two standard errors of the observation each, on noise that the fit has not seen."""
    found = fit.rounds(draw(FITTED, Noise.of(12_000, 7)), method)
    assert fit.misfit(found, method) < 5 * 4
    assert found.draft == pytest.approx(fit.OBSERVED[method].draft, abs=2 * fit.ERRORS[method].draft)
    assert found.full == pytest.approx(fit.OBSERVED[method].full, abs=2 * fit.ERRORS[method].full)


def test_the_search_s_coordinates_are_the_parameters() -> None:
    back = fit.decode(fit.encode(FITTED))
    for name in ("harden", "soften", "easy", "hard_spread", "sharpness", "trust"):
        assert getattr(back, name) == pytest.approx(getattr(FITTED, name))
