"""The target's choice: its tokens one after the other, each from one row of logits and everything before it.

A verification asks for the rows of a step in order and stops behind the first wrong draft, so a row is asked for only
once all tokens before it are decided: what penalties count never has to be rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipesd_gateway.embedded.controls import Controls
from pipesd_gateway.embedded.logprobs import Ranked, rank
from pipesd_gateway.sampling import Logits, Sampler, SamplingParams


class Chooser:
    """Chooses the tokens of one sequence. Used by one thread at a time.

    Args:
        sampler: of the target's vocabulary.
        prompt_ids: all of them inside the vocabulary.
    """

    def __init__(self, sampler: Sampler, params: SamplingParams, controls: Controls, prompt_ids: Sequence[int]) -> None:
        self._sampler = sampler
        self._params = params
        self._min_p = controls.min_p
        self._logprobs = controls.logprobs
        self._ranked: list[Ranked] = []
        self._adjust = Adjust(controls, prompt_ids, sampler.n_vocab) if Adjust.is_needed(controls) else None

    def choose(self, logits: Logits, index: int) -> int:
        """The target's token at absolute position `index`; the calls are for one position after the other.

        logits: float32 (n_vocab,), read only.
        """
        adjusted = logits if self._adjust is None else self._adjust(logits)
        token = self._sampler.sample(adjusted, self._params, index, self._min_p)
        if self._adjust is not None:
            self._adjust.count(token)
        if self._logprobs is not None:
            self._ranked.append(rank(logits, token, self._logprobs))
        return token

    def take_ranked(self) -> tuple[Ranked, ...]:
        """Of the tokens chosen since the last call; empty if the request wants no logprobs."""
        ranked = tuple(self._ranked)
        self._ranked.clear()
        return ranked


class Adjust:
    """Biases and penalties, in vLLM's order and in float32 as there: bias, repetition, frequency, presence."""

    def __init__(self, controls: Controls, prompt_ids: Sequence[int], n_vocab: int) -> None:
        self._biased = np.array([token for token, _ in controls.logit_bias], dtype=np.int64)
        self._bias = np.array([bias for _, bias in controls.logit_bias], dtype=np.float32)
        self._repetition = np.float32(controls.repetition_penalty)
        self._frequency = np.float32(controls.frequency_penalty)
        self._presence = np.float32(controls.presence_penalty)
        self._seen = np.zeros(n_vocab, dtype=np.bool_)
        self._seen[np.asarray(prompt_ids, dtype=np.int64)] = True
        self._counts = np.zeros(n_vocab, dtype=np.float32)

    @staticmethod
    def is_needed(controls: Controls) -> bool:
        return Controls(min_p=controls.min_p, logprobs=controls.logprobs) != controls

    def __call__(self, logits: Logits) -> Logits:
        """The adjusted logits, in an array of their own."""
        logits = logits.copy()
        logits[self._biased] += self._bias
        if self._repetition != 1:
            ids = np.flatnonzero(self._seen)
            found = logits[ids]
            logits[ids] = found * np.where(found > 0, 1 / self._repetition, self._repetition)
        if self._frequency or self._presence:
            ids = np.flatnonzero(self._counts)
            logits[ids] -= self._frequency * self._counts[ids]
            logits[ids] -= self._presence
        return logits

    def count(self, token: int) -> None:
        """The next token of the output is decided."""
        self._seen[token] = True
        self._counts[token] += 1
