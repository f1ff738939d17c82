"""When a forward whose token is decided is aborted."""

from __future__ import annotations

import pytest

from pipesd_agent.drafting.abort_cost import Redo


def test_nothing_is_aborted_before_a_forward_was_timed() -> None:
    assert not Redo().worth(0.0)


def test_as_fast_again_means_always() -> None:
    redo = Redo()
    redo.took(0.1, again=False)
    assert redo.worth(0.0)
    assert redo.worth(0.099)
    assert not redo.worth(0.101)  # it is about to end
    redo.took(0.1, again=True)
    assert redo.worth(0.099)


def test_what_is_left_must_be_more_than_what_doing_it_again_costs() -> None:
    redo = Redo()
    redo.took(0.1, again=False)
    redo.took(0.14, again=True)
    assert redo.worth(0.05)
    assert not redo.worth(0.065)


def test_a_dear_redo_is_tried_again_after_a_while() -> None:
    redo = Redo()
    redo.took(0.1, again=False)
    redo.took(0.5, again=True)
    refused = 0
    while not redo.worth(0.05):
        refused += 1
    assert 50 < refused < 200


def test_means_follow_slowly() -> None:
    redo = Redo()
    redo.took(0.1, again=False)
    redo.took(0.2, again=False)
    assert redo.one_s == pytest.approx(0.11)
