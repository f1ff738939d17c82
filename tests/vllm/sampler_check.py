"""Run under .venv-vllm's python by test_vllm_draw.py: a step of vLLM's samplers, with the noise put in.

vLLM's own two draws are stand-ins that return what no drawn token is; the runner is one that calls them as vLLM does.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from pipesd_core.sampling.params import SamplingParams
from pipesd_core.sampling.sampler import Sampler
from pipesd_vllm.compat import sampler as compat_sampler
from pipesd_vllm.park_keys import NOISE_ARG

N_VOCAB = 50
THEIRS = N_VOCAB + 1
PLACEHOLDER = rejection_sampler.PLACEHOLDER_TOKEN_ID
NUMPY = Sampler(N_VOCAB)


def last_draw(logits: torch.Tensor, *_: Any) -> tuple[torch.Tensor, None]:
    return torch.full((len(logits),), THEIRS), None


def rejection_sample(_drafts: Any, counts: list[int], most: int, *_: Any) -> torch.Tensor:
    return torch.full((len(counts), most + 1), THEIRS, dtype=torch.int32)


def sample(runner: Any, logits: torch.Tensor, step: Any) -> Any:
    """As `GPUModelRunner._sample` and `RejectionSampler.forward`: each request's drafted rows, then its last one."""
    if step is None:
        return runner.sampler.topk_topp_sampler.forward(logits, {}, None, None)[0]
    last = np.cumsum([count + 1 for count in step.num_draft_tokens]) - 1
    bonus = runner.sampler.topk_topp_sampler.forward(logits[last], {}, None, None)[0]
    drafted = np.delete(np.arange(len(logits)), last)
    counts = step.num_draft_tokens
    ends = torch.tensor(counts).cumsum(0)
    bonus = bonus.to(torch.int32)[:, None]
    return rejection_sampler.rejection_sample(step.drafts, counts, max(counts), ends, None, logits[drafted], bonus)


def expected(logits: torch.Tensor, seed: int, index: int, drafts: list[int]) -> list[int]:
    """The rule itself: draw row by row until a token is not the draft."""
    tokens = []
    for offset, row in enumerate(logits.numpy()):
        tokens.append(NUMPY.sample(row, SamplingParams(1.0, seed=seed), index + offset))
        if offset == len(drafts) or tokens[-1] != drafts[offset]:
            break
    return tokens


def one_step(rng: np.random.Generator, n_requests: int, *, speculative: bool) -> int:
    """A random step; returns how many drafts it accepted."""
    params, indices, drafts, logits = [], [], [], []
    for _ in range(n_requests):
        kind = rng.choice(["noise", "noise", "ordinary", "greedy", "no seed"])
        params.append(
            SimpleNamespace(
                extra_args=None if kind == "ordinary" else {NOISE_ARG: 1},
                seed=None if kind == "no seed" else int(rng.integers(-(2**63), 2**63 - 1)),
                temperature=0.0 if kind == "greedy" else 1.0,
            )
        )
        indices.append(int(rng.integers(1, 10_000)))
        rows = torch.from_numpy(rng.normal(size=(int(rng.integers(0, 7)) * speculative + 1, N_VOCAB)) * 3).float()
        right = [
            NUMPY.sample(row, SamplingParams(1.0, seed=params[-1].seed or 0), indices[-1] + at)
            for at, row in enumerate(rows[:-1].numpy())
        ]
        drafts.append([token if rng.random() < 0.7 else int(rng.integers(N_VOCAB)) for token in right])
        logits.append(rows)
    names = [str(number) for number in range(n_requests)]
    runner = SimpleNamespace(
        sampler=SimpleNamespace(topk_topp_sampler=SimpleNamespace(forward=last_draw)),
        requests={name: SimpleNamespace(sampling_params=each) for name, each in zip(names, params, strict=True)},
        input_batch=SimpleNamespace(req_ids=names, num_tokens_no_spec=np.array(indices)),
    )
    flat = torch.tensor([draft for each in drafts for draft in each], dtype=torch.int32)
    step = SimpleNamespace(num_draft_tokens=[len(each) for each in drafts], drafts=flat) if speculative else None
    got = GPUModelRunner._sample(runner, torch.cat(logits), step).reshape(n_requests, -1).tolist()
    accepted = 0
    for batch_row, each in enumerate(params):
        if each.extra_args and each.seed is not None and each.temperature:
            tokens = expected(logits[batch_row], each.seed, indices[batch_row], drafts[batch_row])
            accepted += len(tokens) - 1
            assert got[batch_row] == tokens + [PLACEHOLDER] * (len(got[batch_row]) - len(tokens)), batch_row
        else:
            assert got[batch_row] == [THEIRS] * len(got[batch_row]), batch_row
    return accepted


def main() -> None:
    GPUModelRunner._sample = sample
    rejection_sampler.rejection_sample = rejection_sample
    compat_sampler.install(N_VOCAB)
    rng = np.random.default_rng(6)
    accepted = sum(one_step(rng, int(rng.integers(1, 7)), speculative=number % 4 > 0) for number in range(300))
    assert accepted > 100, "hardly a draft was right: this proves little"
    print(f"300 steps as they should be, {accepted} drafts accepted")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
