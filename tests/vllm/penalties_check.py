"""Run under .venv-vllm's python by test_vllm_penalties.py: the embedded engine's arithmetic is vLLM's, bit for bit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.model_executor.layers.utils import apply_penalties
from vllm.v1.sample.sampler import Sampler

from pipesd_core.llamacpp.openai.logits_processing import LogitsProcessing
from pipesd_core.llamacpp.runtime.logprobs import rank
from pipesd_core.llamacpp.runtime.target_sampler import LogitsProcessor

N_VOCAB = 5000
TRIALS = 30


def main() -> None:
    rng = np.random.default_rng(1)
    for _ in range(TRIALS):
        prompt = rng.integers(0, N_VOCAB, rng.integers(1, 400)).tolist()
        output = rng.integers(0, 300, rng.integers(1, 400)).tolist()
        biased = sorted(set(rng.integers(0, N_VOCAB, 20).tolist()))
        logits_processing = LogitsProcessing(
            presence_penalty=float(rng.uniform(-2, 2)),
            frequency_penalty=float(rng.uniform(-2, 2)),
            repetition_penalty=float(rng.uniform(0.5, 2)),
            logit_bias=tuple((token, float(rng.uniform(-100, 100))) for token in biased),
        )
        adjust = LogitsProcessor(logits_processing, prompt, N_VOCAB)
        for token in output:
            adjust.count(token)
        row = rng.normal(0, 5, N_VOCAB).astype(np.float32)
        assert (adjust(row) == theirs(row, logits_processing, prompt, output)).all()
        check_logprobs(row, int(rng.integers(N_VOCAB)))


def theirs(
    row: NDArray[np.float32], logits_processing: LogitsProcessing, prompt: list[int], output: list[int]
) -> NDArray[np.float32]:
    """As vLLM's sampler: LogitBiasLogitsProcessor, then the penalties."""
    logits = torch.from_numpy(row.copy())[None]
    logits[0, [token for token, _ in logits_processing.logit_bias]] += torch.tensor(
        [bias for _, bias in logits_processing.logit_bias]
    )
    numbers = (
        logits_processing.presence_penalty,
        logits_processing.frequency_penalty,
        logits_processing.repetition_penalty,
    )
    tokens = torch.tensor([prompt]), torch.tensor([output])
    result: NDArray[np.float32] = apply_penalties(logits, *tokens, *(torch.tensor([x]) for x in numbers))[0].numpy()
    return result


def check_logprobs(row: NDArray[np.float32], token: int) -> None:
    logprobs = Sampler.compute_logprobs(torch.from_numpy(row)[None])
    gathered = Sampler.gather_logprobs(logprobs, 20, torch.tensor([token]))
    ranked = rank(row, token, 20)
    assert gathered.logprob_token_ids[0].tolist() == [token, *(other for other, _ in ranked.top)]
    ours = [ranked.logprob, *(logprob for _, logprob in ranked.top)]
    assert np.allclose(gathered.logprobs[0].numpy(), ours, rtol=0, atol=1e-5)


if __name__ == "__main__":
    main()
    print("ok")
