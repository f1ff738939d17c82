"""Choosing a draft from a row of logits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipesd_agent.drafting.confidence import Logistic
from pipesd_agent.drafting.draft_sampler import (
    ONLY_CANDIDATE_MARGIN,
    SHORTLIST,
    SHORTLIST_FROM_VOCABULARY,
    DraftSampler,
)
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler

GREEDY = SamplingParams(temperature=0.0)


def row(n: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)


def test_greedy_by_hand() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32)) + 7
    draft = DraftSampler(3).sample(logits, GREEDY, 12)
    assert (draft.position, draft.token) == (12, 1)
    assert draft.confidence == pytest.approx(0.5, abs=1e-6)
    assert draft.margin == pytest.approx(math.log(0.5 / 0.3), abs=1e-5)
    assert draft.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.2, 0.5, 0.3)), abs=1e-5)


def test_greedy_tie_goes_to_the_smallest_id_with_no_margin() -> None:
    draft = DraftSampler(4).sample(np.array([0, 3, 3, 1], np.float32), GREEDY, 1)
    assert (draft.token, draft.margin) == (1, 0.0)


@pytest.mark.parametrize("params", [(1.0, 1.0, 0), (0.7, 0.9, 0), (1.0, 1.0, 40), (1.3, 0.8, 20)])
def test_sampled_draft_is_what_the_targets_sampler_would_take(params: tuple[float, float, int]) -> None:
    n = 3000
    sampler, draft_sampler = Sampler(n), DraftSampler(n)
    for seed in range(30):
        effective = SamplingParams(*params, seed=seed)
        logits = row(n, seed)
        assert draft_sampler.sample(logits, effective, 9 + seed).token == sampler.sample(logits, effective, 9 + seed)


def test_sampled_margin_and_confidence() -> None:
    draft_sampler = DraftSampler(50, Logistic(intercept=-1.0, slope=2.0))
    params = SamplingParams(temperature=0.7, seed=3)
    logits = row(50)
    perturbed = np.sort(Sampler(50).perturb(logits / 0.7, np.arange(50), 3, 8))
    draft = draft_sampler.sample(logits, params, 8)
    assert draft.margin == pytest.approx(perturbed[-1] - perturbed[-2], abs=1e-5)
    assert draft.confidence == pytest.approx(1 / (1 + math.exp(1 - 2 * draft.margin)))
    assert draft.entropy == pytest.approx(draft_sampler.sample(logits, GREEDY, 8).entropy)


def test_token_without_a_rival_is_sure() -> None:
    draft = DraftSampler(50).sample(row(50), SamplingParams(temperature=1.0, top_k=1, seed=1), 5)
    assert draft.margin == ONLY_CANDIDATE_MARGIN
    assert draft.confidence > 0.999


def test_large_vocabulary_is_drawn_from_the_best_alone() -> None:
    n = SHORTLIST_FROM_VOCABULARY + 1000
    sampler, draft_sampler = Sampler(n), DraftSampler(n)
    logits = row(n, spread=3.0)
    best = set(np.argsort(-logits)[:SHORTLIST].tolist())
    same = 0
    for seed in range(100):
        params = SamplingParams(temperature=0.6, seed=seed)
        token = draft_sampler.sample(logits, params, 4).token
        assert token in best
        same += token == sampler.sample(logits, params, 4)
    assert same >= 90


def test_row_is_left_alone() -> None:
    logits = row(100)
    before = logits.copy()
    logits.flags.writeable = False
    draft_sampler = DraftSampler(100)
    for params in (GREEDY, SamplingParams(seed=1)):
        draft_sampler.sample(logits, params, 3)
    assert (logits == before).all()


@pytest.mark.parametrize("n", [300, SHORTLIST_FROM_VOCABULARY + 5])
@pytest.mark.parametrize("params", [GREEDY, SamplingParams(1.0, 1.0, 0, 7), SamplingParams(0.7, 0.9, 40, 8)])
def test_of_the_allowed_tokens_it_takes_what_the_targets_sampler_would(n: int, params: SamplingParams) -> None:
    sampler, draft_sampler = Sampler(n), DraftSampler(n)
    for seed in range(10):
        allowed = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.3)
        draft = draft_sampler.sample(row(n, seed), params, 9 + seed, allowed)
        assert draft.token == sampler.sample(row(n, seed), params, 9 + seed, allowed=allowed)
        assert draft.token in allowed


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(seed=3)])
def test_the_only_allowed_token_is_sure(params: SamplingParams) -> None:
    draft = DraftSampler(50).sample(row(50), params, 4, np.array([17]))
    assert (draft.token, draft.entropy) == (17, 0.0)
    assert draft.margin == pytest.approx(ONLY_CANDIDATE_MARGIN)
    assert draft.confidence > 0.99
