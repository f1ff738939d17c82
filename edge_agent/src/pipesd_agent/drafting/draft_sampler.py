"""Sampling of a draft from the draft model's logits (architecture §5).

Besides the forward this is what a draft costs, so it works on a view of the logits and on buffers made once: 9 us with
a vocabulary of 4 k tokens and 150 us with 152 k at T = 0; 85 us and 1.1 ms at T > 0 (the entropy's part: 1 us, 14 us).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipesd_agent.drafting.confidence import SAMPLED, Logistic
from pipesd_agent.drafting.drafter import DraftToken
from pipesd_core.sampling import noise
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler, scaled_candidates

SHORTLIST: Final = 256
"""At T > 0 the draft is drawn from this many tokens, those that the draft model likes best."""
SHORTLIST_FROM_VOCABULARY: Final = 16_384
"""With a smaller vocabulary it is drawn from all of it."""
ONLY_CANDIDATE_MARGIN: Final = noise.GUMBEL_MAX - noise.GUMBEL_MIN
"""Margin of a token that is the only candidate (top_k = 1)."""


class DraftSampler:
    """Samples drafts from rows of logits, with buffers for one vocabulary. For one thread.

    Args:
        n_vocab: logits in a row. calibration: from a margin to a confidence, at T > 0.
    """

    def __init__(self, n_vocab: int, calibration: Logistic = SAMPLED) -> None:
        self._calibration = calibration
        self._sampler = Sampler(n_vocab)
        self._all = np.arange(n_vocab)
        self._below_max = np.empty(n_vocab, np.float32)
        self._exp = np.empty(n_vocab, np.float32)

    def sample(
        self,
        row: NDArray[np.float32],
        params: SamplingParams,
        position: int,
        allowed: NDArray[np.int64] | None = None,
    ) -> DraftToken:
        """The draft for absolute index `position`: the token that the target's sampler would take of this row.

        row: shape (n_vocab,). allowed: the only tokens that it may be, ascending and at least one; None: all.
        Confidence at T = 0: the token's probability, as in the PipeSD paper; else the calibrated margin (architecture
        §5).
        """
        ids_of = self._all if allowed is None else allowed
        if allowed is not None:
            row = row[allowed]
        below, exp = self._below_max[: len(row)], self._exp[: len(row)]
        token = int(row.argmax())
        np.subtract(row, row[token], out=below)
        np.exp(below, out=exp)
        total = float(exp.sum())
        entropy = max(0.0, math.log(total) - float(exp @ below) / total)
        if params.greedy:
            below[token] = -ONLY_CANDIDATE_MARGIN if len(row) == 1 else -math.inf
            return DraftToken(position, int(ids_of[token]), min(1.0, 1.0 / total), -float(below.max()), entropy)
        scores, ids = self._candidates(row, params)
        ids = ids_of[ids]
        perturbed = self._sampler.perturb(scores, ids, params.seed, position)
        best = int(perturbed.argmax())
        margin = ONLY_CANDIDATE_MARGIN
        if len(perturbed) > 1:
            highest = float(perturbed[best])
            perturbed[best] = -math.inf
            margin = highest - float(perturbed.max())
        return DraftToken(position, int(ids[best]), self._calibration(margin), margin, entropy)

    def _candidates(
        self, row: NDArray[np.float32], params: SamplingParams
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        among: NDArray[Any] = self._all[: len(row)]
        if len(row) > SHORTLIST_FROM_VOCABULARY:
            among = np.sort(row.argpartition(len(row) - SHORTLIST)[len(row) - SHORTLIST :])
            row = row[among]
        scores, kept = scaled_candidates(row, params)
        return scores, among if kept is None else among[kept]
