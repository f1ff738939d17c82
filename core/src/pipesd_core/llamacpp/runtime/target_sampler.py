"""The target's sampler: applies penalties, biases and constraint to a row of logits, then samples.

A verification asks for the rows of a step in order and stops behind the first wrong draft, so a row is asked for only
once all tokens before it are decided: what penalties count never has to be rolled back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipesd_core.llamacpp.openai.logits_processing import Constraint, LogitsProcessing
from pipesd_core.llamacpp.runtime.logprobs import Ranked, rank
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Logits, Sampler


class TargetSampler:
    """Sampler of the target for one sequence. Used by one thread at a time.

    Args:
        sampler: of the target's vocabulary.
        prompt_ids: all of them inside the vocabulary.
        constraint: by the grammar of `logits_processing`, advanced by `decided`; owned by this object.
        decided: first tokens of the output, which another model chose.
    """

    def __init__(
        self,
        sampler: Sampler,
        params: SamplingParams,
        logits_processing: LogitsProcessing,
        prompt_ids: Sequence[int],
        constraint: Constraint | None = None,
        decided: Sequence[int] = (),
    ) -> None:
        self._sampler = sampler
        self._params = params
        self._min_p = logits_processing.min_p
        self._constraint = constraint
        self._logprobs = logits_processing.logprobs
        self._ranked: list[Ranked] = []
        self._processor = (
            LogitsProcessor(logits_processing, prompt_ids, sampler.n_vocab)
            if LogitsProcessor.is_needed(logits_processing)
            else None
        )
        if self._processor is not None:
            for token in decided:
                self._processor.count(token)

    def sample(self, logits: Logits, index: int) -> int:
        """Sample the target's token at absolute position `index`; the calls are for one position after the other.

        logits: float32 (n_vocab,), read only. Raises InvalidRequest when the constraint allows no token at all.
        """
        adjusted = logits if self._processor is None else self._processor(logits)
        allowed = None if self._constraint is None else self._constraint.allowed()
        token = self._sampler.sample(adjusted, self._params, index, self._min_p, allowed)
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._processor is not None:
            self._processor.count(token)
        if self._logprobs is not None:
            self._ranked.append(rank(logits, token, self._logprobs))
        return token

    def take_ranked(self) -> tuple[Ranked, ...]:
        """Logprobs of the tokens sampled since the last call; empty if the request wants none."""
        ranked = tuple(self._ranked)
        self._ranked.clear()
        return ranked


class LogitsProcessor:
    """Applies biases and penalties in vLLM's order, in float32 as there: bias, repetition, frequency, presence."""

    def __init__(self, logits_processing: LogitsProcessing, prompt_ids: Sequence[int], n_vocab: int) -> None:
        self._biased = np.array([token for token, _ in logits_processing.logit_bias], dtype=np.int64)
        self._bias = np.array([bias for _, bias in logits_processing.logit_bias], dtype=np.float32)
        self._repetition = np.float32(logits_processing.repetition_penalty)
        self._frequency = np.float32(logits_processing.frequency_penalty)
        self._presence = np.float32(logits_processing.presence_penalty)
        self._seen = np.zeros(n_vocab, dtype=np.bool_)
        self._seen[np.asarray(prompt_ids, dtype=np.int64)] = True
        self._counts = np.zeros(n_vocab, dtype=np.float32)

    @staticmethod
    def is_needed(logits_processing: LogitsProcessing) -> bool:
        return any(
            (logits_processing.presence_penalty, logits_processing.frequency_penalty, logits_processing.logit_bias)
        ) or (logits_processing.repetition_penalty != 1)

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
        """Count the next token of the output."""
        self._seen[token] = True
        self._counts[token] += 1
