"""The sampler: its rules one by one, its distribution, and that its shortcut for large vocabularies changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipesd_core.errors import InvalidRequest
from pipesd_core.sampling import noise
from pipesd_core.sampling import sampler as sampling
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler, draw_seed, scaled_candidates

F64 = NDArray[np.float64]
DRAWS = 20_000
REJECT_BELOW = 1e-3
"""Seeds are fixed, so this is no rate of false alarms: with these seeds the right rule passes, today and for ever."""

# Cached logits with tied tokens in it: at the top, in the middle and at the bottom.
CACHED = np.array([1.5, -0.25, 2.0, 0.5, 2.0, 0.5, -3.0, 0.5, -3.0, 1.0, 0.0, -1.0], dtype=np.float32)


def row(*logits: float) -> NDArray[np.float32]:
    return np.array(logits, dtype=np.float32)


def probabilities(logits: NDArray[np.float32], params: SamplingParams) -> F64:
    """What should come out, written without the module under test: the usual softmax, sorted masks and all."""
    scores = logits.astype(np.float64) / params.temperature
    if params.top_k > 0:
        scores[scores < np.sort(scores)[-params.top_k]] = -np.inf
    p = np.exp(scores - scores.max())
    p /= p.sum()
    if params.top_p < 1:
        kept, mass = np.zeros(len(p), dtype=bool), 0.0
        for token in sorted(range(len(p)), key=lambda x: (-p[x], x)):
            if mass < params.top_p - 1e-12:
                kept[token] = True
            mass += p[token]
        p = np.where(kept, p, 0.0)
    normalised: NDArray[np.float64] = p / p.sum()
    return normalised


def chi_square(counts: NDArray[np.int64], p: F64) -> float:
    """The p-value; 0 at once if a token was drawn that cannot be."""
    if counts[p == 0].any():
        return 0.0
    if (p > 0).sum() == 1:
        return 1.0
    return float(stats.chisquare(counts[p > 0], p[p > 0] * counts.sum()).pvalue)


# Rules.


def test_greedy_is_the_argmax_and_ties_go_to_the_smallest_id() -> None:
    sampler = Sampler(5)
    assert sampler.sample(row(0, 3, 1, 3, 3), SamplingParams(temperature=0.0, seed=7), 9) == 1
    assert sampler.sample(row(2, 2, 2, 2, 2), SamplingParams(temperature=0.0), 1) == 0


def test_the_two_clamps_of_the_temperature() -> None:
    assert SamplingParams(temperature=0.99e-5).greedy
    assert not SamplingParams(temperature=1e-5).greedy
    scores, _ = scaled_candidates(row(0, 1), SamplingParams(temperature=1e-5))
    assert scores.tolist() == [0, pytest.approx(100)], "below 0.01 is 0.01"
    scores, _ = scaled_candidates(row(0, 1), SamplingParams(temperature=0.02))
    assert scores.tolist() == [0, pytest.approx(50)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("top_k", -2),
        ("top_k", 2**31),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
    ],
)
def test_parameters_out_of_range_are_named_with_limit_and_value(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"{field} must .* but is {value}") as caught:
        msgspec.structs.replace(SamplingParams(), **{field: value})
    assert caught.value.param == field


def test_top_k_keeps_all_that_tie_with_the_kth() -> None:
    for k, kept in [(1, [1]), (2, [1, 3, 4]), (3, [1, 3, 4]), (4, [0, 1, 3, 4, 5])]:
        _, ids = scaled_candidates(row(0, 3, -1, 1, 1, 0), SamplingParams(top_k=k))
        assert ids is not None
        assert ids.tolist() == kept


@pytest.mark.parametrize("k", [-1, 0, 6, 7])
def test_top_k_that_is_off_or_covers_all_masks_nothing(k: int) -> None:
    scores, ids = scaled_candidates(row(0, 3, -1, 1, 1, 0), SamplingParams(top_k=k))
    assert ids is None
    assert len(scores) == 6


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (5e-324, [0]),
        (0.01, [0]),
        (0.25, [0]),  # exactly reached: no second token
        (0.2500001, [0, 1]),
        (0.5, [0, 1]),
        (0.75, [0, 1, 2]),
        (0.999, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it_and_ties_go_by_id(top_p: float, kept: list[int]) -> None:
    _, ids = scaled_candidates(row(2, 2, 2, 2), SamplingParams(top_p=top_p))
    assert ids is not None
    assert ids.tolist() == kept


def test_top_p_counts_the_mass_after_temperature_and_top_k() -> None:
    # At T = 1 and without top-k, 0.6 needs only token 0; half as hot, or without the tail, the answer is another.
    logits = np.log(row(0.62, 0.2, 0.1, 0.08))
    for params, kept in [
        (SamplingParams(top_p=0.6), [0]),
        (SamplingParams(top_p=0.6, temperature=2.0), [0, 1]),
        (SamplingParams(top_p=0.7), [0, 1]),
        (SamplingParams(top_p=0.7, top_k=2), [0]),
    ]:
        _, ids = scaled_candidates(logits, params)
        assert ids is not None
        assert ids.tolist() == kept


def test_top_p_of_nearly_one_over_a_long_tail_keeps_an_ascending_set_without_gaps_in_mass() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, 50_000).astype(np.float32)
    sizes = []
    for top_p in (0.5, 0.9, 0.99, 0.9999999, 1 - 2**-53):
        scores, ids = scaled_candidates(logits, SamplingParams(top_p=top_p))
        assert ids is not None
        assert (np.diff(ids) > 0).all()
        assert np.array_equal(scores, logits[ids].astype(np.float64))
        sizes.append(len(ids))
    assert all(a < b for a, b in pairwise(sizes[:4]))


def test_tiny_top_p_with_noise_is_greedy() -> None:
    sampler = Sampler(len(CACHED))
    assert {sampler.sample(CACHED, SamplingParams(top_p=1e-9, seed=s), 5) for s in range(50)} == {2}
    assert {sampler.sample(CACHED, SamplingParams(top_k=1, seed=s), 5) for s in range(200)} == {2, 4}


def test_the_noise_is_that_of_the_input_token_before() -> None:
    """vLLM's convention: the token at index p uses the noise of position p - 1."""
    sampler = Sampler(1000)
    flat = np.zeros(1000, dtype=np.float32)
    for index in (1, 2, 700):
        expected = int(noise.hashes(99, index - 1, noise.mix_tokens(1000)).argmin())
        assert sampler.sample(flat, SamplingParams(seed=99), index) == expected


def test_perturbed_scores_of_chosen_ids_are_those_that_sample_compares() -> None:
    sampler = Sampler(len(CACHED))
    params = SamplingParams(temperature=0.8, seed=123)
    scores, _ = scaled_candidates(CACHED, params)
    ids = np.array([2, 4, 9])
    assert sampler.perturb(scores[ids], ids, 123, 6).tolist() == (
        sampler.perturb(scores, np.arange(len(CACHED)), 123, 6)[ids].tolist()
    )
    whole = sampler.perturb(scores, np.arange(len(CACHED)), 123, 6)
    assert sampler.sample(CACHED, params, 6) == int(whole.argmax())


def test_logits_are_read_only() -> None:
    logits = CACHED.copy()
    logits.setflags(write=False)
    for params in (SamplingParams(temperature=0), SamplingParams(top_k=3, top_p=0.8)):
        Sampler(len(logits)).sample(logits, params, 1)
    assert np.array_equal(logits, CACHED)


def test_drawn_seeds_have_63_bits_and_differ() -> None:
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) == 100
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(seeds) > 2**60


# The shortcut for large vocabularies.


def kinds_of_rows(rng: np.random.Generator, n: int) -> list[NDArray[np.float32]]:
    peaked = rng.normal(0, 1, n)
    peaked[rng.integers(n)] += 30
    tied = rng.normal(0, 1, n)
    tied[rng.choice(n, min(n, 500), replace=False)] = tied.max() + 1
    rows = [
        np.zeros(n),  # flat
        rng.normal(0, 1e-6, n),
        rng.normal(0, 1, n),
        rng.normal(0, 6, n),
        np.round(rng.normal(0, 2, n)),  # a few levels, each with very many ties
        peaked,
        tied,
        -np.arange(n) / 50.0,
    ]
    return [np.asarray(r, dtype=np.float32) for r in rows]


def unfiltered(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], int]) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "PREFILTER_FROM", 2**62)
        return draw()


def test_the_prefilter_changes_nothing_in_thousands_of_small_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "PREFILTER_TOP", 8)
    rng = np.random.default_rng(5)
    for round_ in range(400):
        n = int(rng.integers(9, 600))
        monkeypatch.setattr(sampling, "PREFILTER_FROM", 9)
        sampler = Sampler(n)
        for logits in kinds_of_rows(rng, n):
            temperature = float(rng.choice([0.01, 0.1, 0.7, 1.0, 2.0]))
            params = SamplingParams(
                temperature=temperature,
                top_k=int(rng.choice([0, 0, n // 2, n - 1])),
                top_p=float(rng.choice([1.0, 1.0, 0.9, 0.999])),
                seed=int(rng.integers(-(2**63), 2**63 - 1)),
            )
            fast = sampler.sample(logits, params, round_ + 1)
            slow = unfiltered(monkeypatch, lambda: sampler.sample(logits, params, round_ + 1))  # noqa: B023
            assert fast == slow, (n, params)


@pytest.mark.parametrize("n", [16_384, 20_000, 65_537, 151_936])
def test_the_prefilter_changes_nothing_in_large_vocabularies(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    rng = np.random.default_rng(n)
    sampler = Sampler(n)
    for logits in kinds_of_rows(rng, n):
        for temperature, top_k in [(1.0, 0), (0.3, n - 1000)]:
            params = SamplingParams(temperature=temperature, top_k=top_k, seed=int(rng.integers(2**63 - 1)))
            index = int(rng.integers(1, 2**20))
            fast = sampler.sample(logits, params, index)
            slow = unfiltered(monkeypatch, lambda: sampler.sample(logits, params, index))  # noqa: B023
            assert fast == slow


def test_the_prefilter_is_used_and_drops_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    real = noise.gumbel

    def counted(hashes: noise.U32) -> noise.F64:
        scored.append(len(hashes))
        return real(hashes)

    monkeypatch.setattr(noise, "gumbel", counted)
    logits = np.random.default_rng(0).normal(0, 3, 100_000).astype(np.float32)
    Sampler(100_000).sample(logits, SamplingParams(seed=3), 1)
    assert len(scored) == 2
    assert sum(scored) < 5_000


# The distribution.


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7),
        SamplingParams(temperature=0.7, top_k=4),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=1.3, top_k=7, top_p=0.9),
    ],
)
def test_20000_seeds_follow_the_softmax(params: SamplingParams) -> None:
    sampler = Sampler(len(CACHED))
    t, top_p, top_k = params.temperature, params.top_p, params.top_k
    drawn = [sampler.sample(CACHED, SamplingParams(t, top_p, top_k, seed), 17) for seed in range(DRAWS)]
    counts = np.bincount(drawn, minlength=len(CACHED))
    assert chi_square(counts, probabilities(CACHED, params)) > REJECT_BELOW


def test_20000_positions_of_one_seed_follow_the_softmax_too() -> None:
    sampler = Sampler(len(CACHED))
    params = SamplingParams(seed=-5)
    drawn = [sampler.sample(CACHED, params, index) for index in range(1, DRAWS + 1)]
    assert chi_square(np.bincount(drawn, minlength=len(CACHED)), probabilities(CACHED, params)) > REJECT_BELOW


def speculate(p: F64, q: F64, *, wrong: bool) -> NDArray[np.int64]:
    """Counts of DRAWS first tokens under draft-and-verify; `wrong`: the rule
    of two published implementations: greedy drafts held against min(1, p/q), corrections from a constant seed."""
    rng = np.random.default_rng(11)
    residual = np.maximum(p - q, 0)
    residual /= residual.sum()
    constant = int(np.random.default_rng(1234).choice(len(p), p=residual))
    drafts = np.full(DRAWS, q.argmax()) if wrong else rng.choice(len(p), DRAWS, p=q)
    accepted = rng.random(DRAWS) < np.minimum(1, p[drafts] / q[drafts])
    corrections = np.full(DRAWS, constant) if wrong else rng.choice(len(p), DRAWS, p=residual)
    return np.bincount(np.where(accepted, drafts, corrections), minlength=len(p))


def test_the_chi_square_has_power_the_wrong_rule_fails_it() -> None:
    p = probabilities(CACHED, SamplingParams())
    q = probabilities(CACHED[::-1].copy() * np.float32(0.5) + CACHED, SamplingParams())
    assert chi_square(speculate(p, q, wrong=False), p) > REJECT_BELOW, "the right rule of the literature must pass"
    assert chi_square(speculate(p, q, wrong=True), p) < 1e-100


def test_the_chi_square_has_power_small_faults_fail_it() -> None:
    """Faults as they might creep in: a temperature off by 5 %, and float32 noise being argmaxed with ties to one."""
    sampler = Sampler(len(CACHED))
    drawn = [sampler.sample(CACHED, SamplingParams(temperature=0.95, seed=s), 17) for s in range(DRAWS)]
    counts = np.bincount(drawn, minlength=len(CACHED))
    assert chi_square(counts, probabilities(CACHED, SamplingParams())) < REJECT_BELOW


# Acceptance under shared noise.


def shared_noise_acceptance(p: F64, q: F64) -> float:
    """Probability that target ``p`` and draft ``q`` draw the same token from the same Gumbel noise.

    Closed form of architecture §5: the sum over x of 1 / sum over y of max(p_y/p_x, q_y/q_x). Shapes (n,), each
    summing to 1; tokens of zero mass in either add nothing.
    """
    both = np.flatnonzero((p > 0) & (q > 0))
    return float(sum(1.0 / np.maximum(p / p[x], q / q[x]).sum() for x in both))


def agreement(p: F64, q: F64) -> float:
    """How often both draw the same token, over DRAWS seeds."""
    mixed = noise.mix_tokens(len(p))
    shared = np.stack([noise.gumbel(noise.hashes(seed, 3, mixed)) for seed in range(DRAWS)])
    with np.errstate(divide="ignore"):
        draws = [(np.log(x) + shared).argmax(axis=1) for x in (p, q)]
    return float((draws[0] == draws[1]).mean())


@pytest.mark.parametrize("case", range(6))
def test_acceptance_is_the_closed_form(case: int) -> None:
    rng = np.random.default_rng(case)
    p, q = rng.dirichlet(np.full(10, 0.6)), rng.dirichlet(np.full(10, 0.6))
    if case >= 3:  # tokens that one or both cannot draw
        p[rng.choice(10, 3, replace=False)] = 0
        q[rng.choice(10, 3, replace=False)] = 0
        p, q = p / p.sum(), q / q.sum()
    expected = shared_noise_acceptance(p, q)
    assert agreement(p, q) == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / DRAWS))


def test_acceptance_of_two_samplers_is_the_closed_form() -> None:
    """Through the public calls, with another temperature and mask on either side."""
    sampler = Sampler(len(CACHED))
    draft_logits = CACHED + np.random.default_rng(2).normal(0, 0.7, len(CACHED)).astype(np.float32)
    seeds = range(5_000)
    same = [
        sampler.sample(CACHED, SamplingParams(0.9, 0.95, 0, s), 40)
        == sampler.sample(draft_logits, SamplingParams(0.7, 1.0, 6, s), 40)
        for s in seeds
    ]
    p = probabilities(CACHED, SamplingParams(0.9, 0.95))
    q = probabilities(draft_logits, SamplingParams(0.7, 1.0, 6))
    expected = shared_noise_acceptance(p, q)
    assert np.mean(same) == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / len(seeds)))


def test_the_closed_form_at_its_ends() -> None:
    p = np.array([0.2, 0.3, 0.5])
    assert shared_noise_acceptance(p, p) == pytest.approx(1)
    assert shared_noise_acceptance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0
    assert shared_noise_acceptance(np.array([1.0, 0.0]), np.array([0.25, 0.75])) == pytest.approx(0.25)
