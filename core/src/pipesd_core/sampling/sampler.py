"""The sampler of architecture §5: one function from (logits, parameters, seed, position) to a token.

Order of the steps (vLLM's): divide by the temperature, min-p, top-k, top-p, then add the shared noise and take the
largest. At temperature 0 it is the argmax. Both ends run this module: the target's token is `Sampler.sample` of the
target's logits, and a draft is accepted iff it equals that token. Penalties and biases come before all that, at the
target only (`llamacpp.runtime.target_sampler`). Ties go to the smallest token id, everywhere.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipesd_core.sampling import noise

# Re-exported for callers that use the sampler anyway.
from pipesd_core.sampling.params import GREEDY_BELOW as GREEDY_BELOW
from pipesd_core.sampling.params import MIN_TEMPERATURE as MIN_TEMPERATURE
from pipesd_core.sampling.params import SamplingParams

Logits = NDArray[np.float32]

PREFILTER_TOP: Final = 256
"""Number of the best logits that are scored exactly before the rest is filtered by hash."""
PREFILTER_FROM: Final = 16_384
"""Candidate counts from which the hash filter is worth its overhead."""


class Sampler:
    """Draws tokens for one vocabulary. Holds only what can be computed once per vocabulary; safe to share.

    Args:
        n_vocab: number of logits in a row.
    """

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self._mixed = noise.mix_tokens(n_vocab)

    def sample(
        self,
        logits: Logits,
        params: SamplingParams,
        index: int,
        min_p: float = 0.0,
        allowed: NDArray[np.int64] | None = None,
    ) -> int:
        """The token for absolute index ``index`` (its noise is that of the input token at ``index - 1``).

        Args:
            logits: float32 row of shape (n_vocab,); read only, never kept.
            params: effective parameters.
            index: absolute position of the token to be drawn, at least 1.
            min_p: 0 (off) to 1; the drafts need not know it.
            allowed: the tokens that may be drawn, ascending and at least one; None: all. The others are left out before
                everything else.
        """
        if allowed is not None:
            logits = logits[allowed]
        if params.greedy:
            best = int(logits.argmax())
            return best if allowed is None else int(allowed[best])
        scores, ids = scaled_candidates(logits, params, min_p)
        if allowed is not None:
            ids = allowed if ids is None else allowed[ids]
        if len(scores) >= PREFILTER_FROM:
            scores, ids = self._prefilter(scores, ids, params.seed, index - 1)
        perturbed = scores + noise.gumbel(noise.hashes(params.seed, index - 1, self._words(ids)))
        best = int(perturbed.argmax())
        return best if ids is None else int(ids[best])

    def perturb(self, scores: noise.F64, ids: NDArray[np.int64], seed: int, index: int) -> noise.F64:
        """Scores of the tokens ``ids`` plus their shared noise for absolute index ``index``; same shape."""
        return scores + noise.gumbel(noise.hashes(seed, index - 1, self._mixed[ids]))

    def _words(self, ids: NDArray[np.int64] | None) -> noise.U32:
        return self._mixed if ids is None else self._mixed[ids]

    def _prefilter(
        self, scores: noise.F64, ids: NDArray[np.int64] | None, seed: int, position: int
    ) -> tuple[noise.F64, NDArray[np.int64]]:
        """Keep a superset of the winner: the best logits, and the others whose noise could still overtake them."""
        split = len(scores) - PREFILTER_TOP
        order = np.argpartition(scores, split)
        top = order[split:]
        hashed = noise.hashes(seed, position, self._words(ids))
        to_beat = float((scores[top] + noise.gumbel(hashed[top])).max())
        best_of_rest = float(scores[order[:split]].max())
        keep = hashed <= np.int64(noise.hash_ceiling(to_beat - best_of_rest))
        keep[top] = True
        kept = np.flatnonzero(keep)  # ascending, so that argmax still breaks ties by the smallest id
        return scores[kept], kept if ids is None else ids[kept]


def scaled_candidates(
    logits: Logits, params: SamplingParams, min_p: float = 0.0
) -> tuple[noise.F64, NDArray[np.int64] | None]:
    """logits / T of the tokens that survive min-p, top-k and then top-p.

    Masked tokens are left out by index, never by adding -inf. Tokens tied with the k-th largest logit survive top-k
    (as in vLLM). Min-p keeps those at least min_p times as probable as the most probable one; as both keep the best
    tokens, and the best one in any case, it does not matter which of the two comes first. Top-p keeps the smallest set
    of most probable tokens whose mass reaches top_p; ties by id.

    Returns: (scores float64 (n,), ids int64 (n,) ascending), ids None when every token survives.
    """
    n = len(logits)
    ids: NDArray[np.int64] | None = None
    if 0 < params.top_k < n:
        threshold = np.partition(logits, n - params.top_k)[n - params.top_k]
        ids = np.flatnonzero(logits >= threshold)
        logits = logits[ids]
    scores = logits.astype(np.float64) / max(params.temperature, MIN_TEMPERATURE)
    if min_p > 0.0:
        kept = np.flatnonzero(scores >= scores.max() + np.log(min_p))
        scores = scores[kept]
        ids = kept if ids is None else ids[kept]
    if params.top_p < 1.0:
        order = np.argsort(-scores, kind="stable")
        probability = np.exp(scores[order] - scores[order[0]])
        mass_before = np.concatenate(([0.0], np.cumsum(probability[:-1])))
        kept = np.sort(order[: np.searchsorted(mass_before, params.top_p * probability.sum(), side="left")])
        scores = scores[kept]
        ids = kept if ids is None else ids[kept]
    return scores, ids


def draw_seed() -> int:
    """63 random bits: the seed of a request that names none."""
    return secrets.randbits(63)
