"""Made-up traces with the statistics of the HumanEval runs that PipeSD's authors published (20 Mbit/s, 5 samples).

The text alternates between easy and hard stretches (a two-state Markov chain, so that acceptance is correlated along
it). In each, the drafter's surprise s = -ln(confidence) is log-normal, and a token drafted with confidence c is the
target's with probability trust · c ** sharpness. After its first wrong token the drafter goes on along a path that
starts hard. All of that says nothing about time: `bench/proving/traces/fit.py` chose `FITTED` from draft lengths and
acceptances alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.proving.traces.table import DEPTH, Table, Trace

FloatArray = NDArray[np.float64]
VOCABULARY: Final = 32_000


@dataclass(frozen=True)
class Text:
    """harden, soften: probability that the next token is hard after an easy one, and easy after a hard one.
    easy, hard: median surprise, in nats. easy_spread, hard_spread: sigma of its logarithm. sharpness, trust: above."""

    harden: float
    soften: float
    easy: float
    easy_spread: float
    hard: float
    hard_spread: float
    sharpness: float
    trust: float


FITTED: Final = Text(0.1092, 0.4351, 0.003159, 1.231, 0.1566, 0.8177, 1.096, 0.9935)


@dataclass(frozen=True)
class Noise:
    """What `draw` turns into a text; drawn once, so that a text changes smoothly with its parameters."""

    moves: FloatArray
    """[n]: of the chain along the text."""
    surprises: FloatArray
    """[n], standard normal."""
    rights: FloatArray
    """[n], uniform."""
    wrong_moves: FloatArray
    """[n, DEPTH]: along the path after a wrong token."""
    wrong_surprises: FloatArray
    """[n, DEPTH]."""

    @classmethod
    def of(cls, n: int, seed: int) -> Noise:
        rng = np.random.default_rng(seed)
        return cls(
            rng.random(n),
            rng.standard_normal(n),
            rng.random(n),
            rng.random((n, DEPTH)),
            rng.standard_normal((n, DEPTH)),
        )


@dataclass(frozen=True)
class Drawn:
    """confidence, right: [n], of the token drafted after a right prefix. astray: [n, DEPTH], confidences of a path
    whose first token, at this position, is wrong (column 0 is `confidence`)."""

    confidence: FloatArray
    right: NDArray[np.bool_]
    astray: FloatArray


def draw(text: Text, noise: Noise) -> Drawn:
    hard = _chain(text, noise.moves[:, None].T, start_hard=False)[0]
    confidence = _confidence(text, hard, noise.surprises)
    right = noise.rights < text.trust * confidence**text.sharpness
    astray = _confidence(text, _chain(text, noise.wrong_moves, start_hard=True), noise.wrong_surprises)
    astray[:, 0] = confidence
    return Drawn(confidence, right, astray)


def _chain(text: Text, moves: FloatArray, *, start_hard: bool) -> NDArray[np.bool_]:
    """moves: [paths, steps]. Is the step hard?"""
    hard = np.empty(moves.shape, bool)
    state = np.full(len(moves), start_hard)
    for step in range(moves.shape[1]):
        state = np.where(state, moves[:, step] >= text.soften, moves[:, step] < text.harden)
        hard[:, step] = state
    return hard


def _confidence(text: Text, hard: NDArray[np.bool_], normal: FloatArray) -> FloatArray:
    median = np.where(hard, text.hard, text.easy)
    spread = np.where(hard, text.hard_spread, text.easy_spread)
    confidence: FloatArray = np.exp(-median * np.exp(spread * normal))
    return confidence


def make_trace(text: Text, name: str, length: int, seed: int, *, prompt_length: int = 150) -> Trace:
    """One answer of `length` tokens."""
    noise = Noise.of(length + DEPTH, seed)
    drawn = draw(text, noise)
    rng = np.random.default_rng((seed, 1))
    truth = rng.integers(0, VOCABULARY, length + DEPTH)
    astray_ids = rng.integers(0, VOCABULARY, (length, DEPTH))
    drafts = np.empty((length, DEPTH), np.int32)
    confidence = np.empty((length, DEPTH), np.float32)
    wrong_at = length + DEPTH
    for position in range(length + DEPTH - 1, -1, -1):
        if not drawn.right[position]:
            wrong_at = position
        if position >= length:
            continue
        good = min(wrong_at - position, DEPTH)
        drafts[position, :good] = truth[position : position + good]
        confidence[position, :good] = drawn.confidence[position : position + good]
        if good < DEPTH:
            drafts[position, good:] = astray_ids[min(wrong_at, length - 1), : DEPTH - good]
            drafts[position, good] = (truth[wrong_at] + 1) % VOCABULARY
            confidence[position, good:] = drawn.astray[wrong_at, : DEPTH - good]
    blank = np.zeros((length, DEPTH), np.float32)
    return Trace(name, prompt_length, 0.0, truth[:length].astype(np.int32), drafts, confidence, blank, blank)


def make_table(name: str, traces: int, length: int, *, text: Text = FITTED, seed: int = 1) -> Table:
    """`traces` answers of `length` tokens; equal arguments give equal tables."""
    return Table(name, tuple(make_trace(text, f"{name}/{i}", length, seed * 1000 + i) for i in range(traces)))
