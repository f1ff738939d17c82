"""Tokens per forward are counted as a verification counts them."""

from __future__ import annotations

from bench.rounds import Rounds, interval, line, per_forward, rounds
from pipesd_agent.drafting.drafter import DraftToken


def rows(*ids: list[int]) -> list[list[DraftToken]]:
    return [[DraftToken(0, token, 1.0, 0.0, 0.0) for token in row] for row in ids]


def test_a_round_ends_at_the_first_wrong_draft_and_the_forward_adds_a_token() -> None:
    tokens = [1, 2, 3, 4, 5, 6]
    drafts = rows([1, 2, 9, 4], [0], [0], [7], [5, 6, 7, 8], [0])
    assert rounds(drafts, tokens, 4) == Rounds(tokens=6, forwards=3, sent=9, accepted=4)
    assert rounds(drafts, tokens, 1) == Rounds(tokens=6, forwards=4, sent=4, accepted=2)
    assert rounds(rows(*[[]] * 6), tokens, 4) == Rounds(tokens=6, forwards=6, sent=0, accepted=0)


def test_the_interval_holds_the_ratio() -> None:
    ours = [Rounds(60, 30 + n, 60, 30) for n in range(8)]
    lookup = [Rounds(60, 40 + 2 * n, 60, 20) for n in range(8)]
    ratio = per_forward(ours) / per_forward(lookup)
    low, high = interval(ours, lookup)
    assert 1.0 < low < ratio < high
    assert interval(ours, ours) == (1.0, 1.0)
    assert f"x {ratio:.3f} [{low:.3f}, {high:.3f}]" in line("all", ours, lookup)
