"""Rounds of speculative decoding over an answer that is known: how many forwards of the target its tokens take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pipesd_agent.drafting.drafter import DraftToken

RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Rounds:
    """What one answer took: tokens of it, forwards of the target, drafts sent, and accepted."""

    tokens: int
    forwards: int
    sent: int
    accepted: int


def rounds(rows: Sequence[Sequence[DraftToken]], tokens: Sequence[int], limit: int) -> Rounds:
    """Of an answer, with at most `limit` drafts in a forward. rows: what is drafted at each position of it."""
    position = forwards = sent = accepted = 0
    while position < len(tokens):
        drafts = [draft.token for draft in rows[position][:limit]]
        pairs = zip(drafts, tokens[position:], strict=False)
        right = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        forwards, sent, accepted = forwards + 1, sent + len(drafts), accepted + right
        position += right + 1
    return Rounds(len(tokens), forwards, sent, accepted)


def per_forward(answered: Sequence[Rounds]) -> float:
    return sum(one.tokens for one in answered) / sum(one.forwards for one in answered)


def interval(ours: Sequence[Rounds], baseline: Sequence[Rounds], seed: int = 0) -> tuple[float, float]:
    """95 % of the ratios of tokens per forward, over prompts drawn with replacement."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(ours), size=len(ours))
        ratios.append(per_forward([ours[i] for i in chosen]) / per_forward([baseline[i] for i in chosen]))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def line(name: str, draft: Sequence[Rounds], lookup: Sequence[Rounds]) -> str:
    low, high = interval(draft, lookup)
    ratio = per_forward(draft) / per_forward(lookup)
    cells = [f"{per_forward(part):.3f} ({sum(o.sent for o in part) / sum(o.forwards for o in part):.2f} sent)"
             for part in (draft, lookup)]  # fmt: skip
    return f"{name:18} {cells[0]:>20} {cells[1]:>20}   x {ratio:.3f} [{low:.3f}, {high:.3f}]"
