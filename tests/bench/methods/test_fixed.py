"""Ours with fixed thresholds beside PipeSD as published."""

from __future__ import annotations

import pytest

from bench.proving.methods.fixed import compare, lean, ours
from bench.proving.simulator.scenario import NARROW, PAPER


@pytest.mark.parametrize(("number", "ratio"), [(0, 0.305), (1, 0.535), (2, 0.825), (3, 0.455)])
def test_ours_with_fixed_thresholds_against_pipesd_as_published(number: int, ratio: float) -> None:
    """At no more steps of the target for a token than it takes NAVs, with one and the same floor for all drafting."""
    one = compare(PAPER[number])
    assert one.ours.forwards <= one.published.navs
    assert one.ratio == pytest.approx(ratio, abs=0.005)
    assert one.drafting_ms < one.bound_ms < one.ours.tpt_ms


def test_sending_each_token_at_once_saturates_the_narrowest_link() -> None:
    immediate, single = ours(NARROW[0]), ours(NARROW[0], "single")
    assert immediate.tpt_ms > 1.3 * single.tpt_ms
    assert single.tpt_ms == pytest.approx(lean(NARROW[0]).tpt_ms, rel=0.1)
