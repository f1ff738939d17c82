"""When a forward whose token is decided is aborted."""

from __future__ import annotations

import pytest

from pipesd_agent.drafting.abort_cost import AbortCost


def test_nothing_is_aborted_before_a_forward_was_timed() -> None:
    assert not AbortCost().should_abort(0.0)


def test_where_recomputing_costs_nothing_every_forward_is_aborted() -> None:
    cost = AbortCost()
    cost.record(0.1, recomputed=False)
    assert cost.should_abort(0.0)
    assert cost.should_abort(0.099)
    assert not cost.should_abort(0.101)  # it is about to end
    cost.record(0.1, recomputed=True)
    assert cost.should_abort(0.099)


def test_what_is_left_must_be_more_than_what_recomputing_costs() -> None:
    cost = AbortCost()
    cost.record(0.1, recomputed=False)
    cost.record(0.14, recomputed=True)
    assert cost.should_abort(0.05)
    assert not cost.should_abort(0.065)


def test_a_costly_abort_is_tried_again_after_a_while() -> None:
    cost = AbortCost()
    cost.record(0.1, recomputed=False)
    cost.record(0.5, recomputed=True)
    refused = 0
    while not cost.should_abort(0.05):
        refused += 1
    assert 50 < refused < 200


def test_means_follow_slowly() -> None:
    cost = AbortCost()
    cost.record(0.1, recomputed=False)
    cost.record(0.2, recomputed=False)
    assert cost.forward_s == pytest.approx(0.11)
