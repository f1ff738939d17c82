"""From the draft's logits to a drafted token (architecture §5).

Beside the forward this is what a token costs, so it works on a view of the logits and on buffers made once: 9 us at 4 k
tokens and 150 us at 152 k for T = 0; 85 us and 1.1 ms for T > 0 (the entropy's part: 1 us and 14 us).
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

BEST: Final = 256
"""At T > 0 the draft is drawn from its own best so many tokens (in a vocabulary of more than `BEST_FROM`)."""
BEST_FROM: Final = 16_384
SURE_MARGIN: Final = noise.GUMBEL_MAX - noise.GUMBEL_MIN
"""Margin of a token without a rival (top_k = 1)."""


class Chooser:
    """From a row of logits to a draft, with buffers for one vocabulary. One thread.

    Args:
        n_vocab: logits in a row. calibration: confidence of a margin at T > 0.
    """

    def __init__(self, n_vocab: int, calibration: Logistic = SAMPLED) -> None:
        self._calibration = calibration
        self._sampler = Sampler(n_vocab)
        self._all = np.arange(n_vocab)
        self._below_max = np.empty(n_vocab, np.float32)
        self._exp = np.empty(n_vocab, np.float32)

    def choose(self, row: NDArray[np.float32], params: SamplingParams, position: int) -> DraftToken:
        """The draft for absolute index `position`: the token that the target's sampler would take of this row.

        Confidence at T = 0: its probability, as in the paper; else the calibrated margin (architecture §5).
        """
        below, exp = self._below_max, self._exp
        token = int(row.argmax())
        np.subtract(row, row[token], out=below)
        np.exp(below, out=exp)
        total = float(exp.sum())
        entropy = max(0.0, math.log(total) - float(exp @ below) / total)
        if params.greedy:
            below[token] = -math.inf
            return DraftToken(position, token, min(1.0, 1.0 / total), -float(below.max()), entropy)
        scores, ids = self._candidates(row, params)
        perturbed = self._sampler.perturb(scores, ids, params.seed, position)
        best = int(perturbed.argmax())
        margin = SURE_MARGIN
        if len(perturbed) > 1:
            highest = float(perturbed[best])
            perturbed[best] = -math.inf
            margin = highest - float(perturbed.max())
        return DraftToken(position, int(ids[best]), self._calibration(margin), margin, entropy)

    def _candidates(
        self, row: NDArray[np.float32], params: SamplingParams
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        among: NDArray[Any] = self._all
        if len(row) > BEST_FROM:
            among = np.sort(row.argpartition(len(row) - BEST)[len(row) - BEST :])
            row = row[among]
        scores, kept = scaled_candidates(row, params)
        return scores, among if kept is None else among[kept]
