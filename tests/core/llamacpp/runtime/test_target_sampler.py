"""The target's choice against a reference that does it token by token, in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing
from pipesd_core.llamacpp.runtime.target_sampler import TargetSampler
from pipesd_core.sampling import noise
from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Logits, Sampler

N = 40
F = np.float32
PROMPT = [3, 3, 5, 0]
ALL = LogitsProcessing(0.4, 0.7, 1.3, 0.02, ((2, 3.0), (5, -4.0), (9, 1.5)))
PROCESSING = {
    "none": LogitsProcessing(),
    "presence": LogitsProcessing(presence_penalty=1.5),
    "frequency": LogitsProcessing(frequency_penalty=0.9),
    "negative": LogitsProcessing(presence_penalty=-0.5, frequency_penalty=-0.25),
    "repetition": LogitsProcessing(repetition_penalty=1.7),
    "less than 1": LogitsProcessing(repetition_penalty=0.6),
    "bias": LogitsProcessing(logit_bias=((1, 5.0), (7, -100.0))),
    "min_p": LogitsProcessing(min_p=0.2),
    "all": ALL,
}
PARAMS = {
    "greedy": SamplingParams(temperature=0.0),
    "T=1": SamplingParams(seed=2**40 + 5),
    "T=0.7 top_k top_p": SamplingParams(temperature=0.7, top_p=0.8, top_k=10, seed=-3),
}


def adjusted(
    row: Logits, logits_processing: LogitsProcessing, prompt: Sequence[int], output: Sequence[int]
) -> list[np.float32]:
    """Bias, repetition, frequency, presence: vLLM's order, in float32."""
    logits = [F(x) for x in row]
    for token, bias in logits_processing.logit_bias:
        logits[token] += F(bias)
    counts = Counter(output)
    repetition, frequency, presence = (
        F(x)
        for x in (
            logits_processing.repetition_penalty,
            logits_processing.frequency_penalty,
            logits_processing.presence_penalty,
        )
    )
    for token in range(len(logits)):
        if token in counts or token in prompt:
            logits[token] *= F(1) / repetition if logits[token] > 0 else repetition
        if token in counts:
            logits[token] -= frequency * F(counts[token])
            logits[token] -= presence
    return logits


def reference(
    row: Logits,
    params: SamplingParams,
    logits_processing: LogitsProcessing,
    prompt: Sequence[int],
    output: Sequence[int],
    allowed: Sequence[int] = range(N),
) -> int:
    logits = adjusted(row, logits_processing, prompt, output)
    if params.temperature == 0:
        return max(allowed, key=lambda token: (logits[token], -token))
    scores = {token: float(logits[token]) / params.temperature for token in allowed}
    best = max(scores.values())
    if logits_processing.min_p:
        scores = {t: s for t, s in scores.items() if s >= best + math.log(logits_processing.min_p)}
    if params.top_k:
        kth = sorted(scores.values(), reverse=True)[: params.top_k][-1]
        scores = {t: s for t, s in scores.items() if s >= kth}
    if params.top_p < 1:
        total, before, kept = sum(math.exp(s - best) for s in scores.values()), 0.0, {}
        for token in sorted(scores, key=lambda t: (-scores[t], t)):
            if before < params.top_p * total:
                kept[token] = scores[token]
            before += math.exp(scores[token] - best)
        scores = kept
    index = len(prompt) + len(output)
    gumbel = noise.gumbel(noise.hashes(params.seed, index - 1, noise.mix_tokens(N)))
    return max(scores, key=lambda token: (scores[token] + gumbel[token], -token))


@pytest.mark.parametrize("logits_processing", PROCESSING)
@pytest.mark.parametrize("params", PARAMS)
def test_it_chooses_what_the_reference_chooses(params: str, logits_processing: str) -> None:
    rng = np.random.default_rng(11)
    target_sampler = TargetSampler(Sampler(N), PARAMS[params], PROCESSING[logits_processing], PROMPT)
    output: list[int] = []
    for _ in range(150):
        row = rng.normal(0.0, 2.0, N).astype(np.float32)
        before = row.copy()
        token = target_sampler.sample(row, len(PROMPT) + len(output))
        assert token == reference(row, PARAMS[params], PROCESSING[logits_processing], PROMPT, output)
        assert (row == before).all()
        output.append(token)


@pytest.mark.parametrize("logits_processing", PROCESSING)
def test_what_another_model_decided_counts_as_output(logits_processing: str) -> None:
    row = np.random.default_rng(5).normal(0.0, 2.0, N).astype(np.float32)
    decided = [7, 7, 31, 2]
    target_sampler = TargetSampler(Sampler(N), PARAMS["greedy"], PROCESSING[logits_processing], PROMPT, decided=decided)
    index = len(PROMPT) + len(decided)
    assert target_sampler.sample(row, index) == reference(
        row, PARAMS["greedy"], PROCESSING[logits_processing], PROMPT, decided
    )


def test_the_order_matters_and_is_vllms() -> None:
    """A bias is scaled by the repetition penalty; the other two are subtracted afterwards."""
    row = np.zeros(4, dtype=np.float32)
    target_sampler = TargetSampler(Sampler(4), PARAMS["greedy"], LogitsProcessing(1.0, 0.5, 2.0, 0.0, ((3, 8.0),)), [0])
    assert target_sampler.sample(row, 1) == 3
    # 8 / 2 - 0.5 - 1 = 2.5 now; were the bias added last, it would be 8 - 1.5.
    row[1] = 2.6
    assert target_sampler.sample(row, 2) == 1


def test_penalties_drive_the_text_away_from_repeating() -> None:
    row = np.linspace(1.0, 0.0, N).astype(np.float32)
    target_sampler = TargetSampler(Sampler(N), PARAMS["greedy"], LogitsProcessing(presence_penalty=2.0), [])
    assert [target_sampler.sample(row, 1 + i) for i in range(N)] == list(range(N))


class Multiples:
    """Allows every step-th token, other ones each time."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.accepted: list[int] = []

    def set(self) -> list[int]:
        return [token for token in range(N) if (token + len(self.accepted)) % self.step == 0]

    def allowed(self) -> NDArray[np.int64]:
        return np.array(self.set())

    def accept(self, token: int) -> None:
        assert token in self.set()
        self.accepted.append(token)


@pytest.mark.parametrize("step", [1, 3, 20, 40])
@pytest.mark.parametrize("logits_processing", ["none", "min_p", "all"])
@pytest.mark.parametrize("params", PARAMS)
def test_what_the_constraint_forbids_is_left_out_before_everything(
    params: str, logits_processing: str, step: int
) -> None:
    rng = np.random.default_rng(step)
    constraint = Multiples(step)
    target_sampler = TargetSampler(Sampler(N), PARAMS[params], PROCESSING[logits_processing], PROMPT, constraint)
    output: list[int] = []
    for _ in range(80):
        row = rng.normal(0.0, 2.0, N).astype(np.float32)
        allowed = constraint.set()
        token = target_sampler.sample(row, len(PROMPT) + len(output))
        assert token == reference(row, PARAMS[params], PROCESSING[logits_processing], PROMPT, output, allowed)
        output.append(token)
    assert constraint.accepted == output
