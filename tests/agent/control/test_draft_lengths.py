"""Draft lengths: the paper's N-hat, and how likely each is."""

from __future__ import annotations

import pytest

from pipesd_agent.control.draft_lengths import Lengths


def test_n_hat() -> None:
    lengths = Lengths()
    assert lengths.n_hat == 20
    for drafts in (3, 4, 4):
        lengths.add(drafts)
    assert lengths.n_hat == 4
    for _ in range(100):
        lengths.add(7)
    assert lengths.n_hat == 7
    assert lengths.added == 103


def test_the_last_hundred_count() -> None:
    lengths = Lengths()
    for drafts in range(1, 301):
        lengths.add(drafts)
    assert lengths.n_hat == round(sum(range(201, 301)) / 100)


def test_none_is_no_length() -> None:
    lengths = Lengths()
    lengths.add(0)
    assert (lengths.n_hat, lengths.added) == (20, 0)


def test_chances_are_those_of_what_was_seen() -> None:
    lengths = Lengths()
    for drafts in [2] * 60 + [5] * 40:
        lengths.add(drafts)
    chances = lengths.chances()
    assert (chances[0], chances.sum()) == (0, pytest.approx(1))
    assert chances[2] == pytest.approx(0.6, abs=0.03)
    assert chances[5] == pytest.approx(0.4, abs=0.03)
    assert len(chances) == 1 + 6
    assert min(chances[1:]) > 0, "what was not seen is not impossible"


def test_chances_before_any_was_seen() -> None:
    chances = Lengths().chances()
    assert len(chances) == 1 + 40
    assert chances.sum() == pytest.approx(1)


def test_long_ones_count_as_the_longest() -> None:
    lengths = Lengths()
    lengths.add(1000)
    chances = lengths.chances()
    assert len(chances) == 65
    assert chances[64] > 0.2


def test_single_tokens() -> None:
    lengths = Lengths()
    for _ in range(100):
        lengths.add(1)
    chances = lengths.chances()
    assert len(chances) == 3
    assert 0 < chances[2] < 0.1
