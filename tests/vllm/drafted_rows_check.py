"""Run under .venv-vllm's python by test_vllm_drafted_rows.py: drafted rows are processed as vLLM processes a last row.

What the rejection sampler makes of drafted rows is compared, bit for bit, with what vLLM's ordinary sampler makes of
the same rows, each as a request that has decided the drafts before it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker import gpu_model_runner

from pipesd_core.errors import ConfigError
from pipesd_vllm.compat import cpu, drafted_rows

N_VOCAB = 200
MOST = 64
DEVICE = torch.device("cpu")
CONFIG = SimpleNamespace(
    speculative_config=SimpleNamespace(num_speculative_tokens=15), scheduler_config=SimpleNamespace(max_num_seqs=MOST)
)
Request = tuple[SamplingParams, list[int], list[int]]
"""Parameters, prompt, output so far."""


class Custom(LogitsProcessor):  # type: ignore[misc]
    """A processor that a user would bring."""

    def __init__(self, *_: Any) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        pass

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def random_params(rng: np.random.Generator, greedy: bool) -> SamplingParams:
    def sometimes(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.5 else otherwise

    biased = rng.choice(N_VOCAB, 8, replace=False).tolist()
    return SamplingParams(
        temperature=0.0 if greedy else float(rng.uniform(0.3, 1.5)),
        min_p=sometimes(float(rng.uniform(0.01, 0.4)), 0.0),
        logit_bias=sometimes({token: float(rng.uniform(-6, 6)) for token in biased}, None),
        top_k=sometimes(int(rng.integers(5, 60)), 0),
        top_p=sometimes(float(rng.uniform(0.4, 0.99)), 1.0),
        presence_penalty=sometimes(float(rng.uniform(-2, 2)), 0.0),
        frequency_penalty=sometimes(float(rng.uniform(-2, 2)), 0.0),
        repetition_penalty=sometimes(float(rng.uniform(0.6, 1.8)), 1.0),
        min_tokens=int(rng.integers(0, 9)),
        stop_token_ids=[3, 4],
        max_tokens=100,
    )


def metadata(requests: list[Request], drafts: list[list[int]], processors: Any) -> SamplingMetadata:
    """As `InputBatch` makes it, of these requests."""
    params = [each for each, _, _ in requests]

    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([getattr(each, name) for each in params], dtype=dtype)

    batch = BatchUpdate(
        batch_size=len(requests), removed=[], moved=[], added=[(at, *each) for at, each in enumerate(requests)]
    )
    for processor in processors.all:
        processor.update_state(batch)
    longest = max(len(prompt) for _, prompt, _ in requests)
    prompts = torch.tensor([prompt + [N_VOCAB] * (longest - len(prompt)) for _, prompt, _ in requests])
    greedy = [each.temperature == 0 for each in params]
    top_k = column("top_k", torch.int32)
    return SamplingMetadata(
        temperature=None if all(greedy) else column("temperature"),
        all_greedy=all(greedy),
        all_random=not any(greedy),
        top_p=column("top_p"),
        top_k=torch.where(top_k > 0, top_k, N_VOCAB),
        generators={},
        max_num_logprobs=None,
        no_penalties=False,
        prompt_token_ids=prompts,
        frequency_penalties=column("frequency_penalty"),
        presence_penalties=column("presence_penalty"),
        repetition_penalties=column("repetition_penalty"),
        output_token_ids=[output for _, _, output in requests],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=processors,
        spec_token_ids=drafts,
    )


def made() -> Any:
    return gpu_model_runner.build_logitsprocs(CONFIG, DEVICE, False, False, ())


def by_rejection_sampler(logits: torch.Tensor, requests: list[Request], drafts: list[list[int]]) -> torch.Tensor:
    """The processed logits of all drafted rows."""
    of_step = metadata(requests, drafts, made())
    counts = [len(each) for each in drafts]
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    step = SimpleNamespace(num_draft_tokens=counts)
    processed = RejectionSampler(Sampler()).apply_logits_processors(logits.clone(), of_step, step)
    constrained: torch.Tensor = rejection_sampler.apply_sampling_constraints(processed, ends, of_step)
    return constrained


def by_sampler(logits: torch.Tensor, requests: list[Request]) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The processed logits that vLLM's sampler draws from (None: all are greedy), and the tokens of greedy requests."""
    seen: list[torch.Tensor] = []
    sampler = Sampler()

    def forward(rows: torch.Tensor, _: Any, k: Any, p: Any) -> tuple[torch.Tensor, None]:
        seen.append(apply_top_k_top_p(rows, k, p).clone())
        return torch.zeros(len(rows), dtype=torch.int64), None

    sampler.topk_topp_sampler.forward = forward
    tokens = sampler(logits.clone(), metadata(requests, [[] for _ in requests], made())).sampled_token_ids
    return (seen[0] if seen else None), tokens.squeeze(-1)


def one_step(rng: np.random.Generator, number: int) -> int:
    """A random step; returns its drafted rows."""
    requests: list[Request] = []
    drafts: list[list[int]] = []
    for _ in range(int(rng.integers(1, 7))):
        greedy = (number % 5 == 0) or rng.random() < 0.3
        prompt, output = (rng.integers(0, N_VOCAB, int(rng.integers(1, 20))).tolist() for _ in range(2))
        requests.append((random_params(rng, greedy), prompt, output))
        drafts.append(rng.integers(0, N_VOCAB, int(rng.integers(0, 6))).tolist())
    rows = [
        (params, prompt, output + of_request[:at])
        for (params, prompt, output), of_request in zip(requests, drafts, strict=True)
        for at in range(len(of_request))
    ]
    if not rows:
        return 0
    logits = torch.from_numpy(rng.normal(size=(len(rows), N_VOCAB)) * 3).float()
    got = by_rejection_sampler(logits, requests, drafts)
    expected, greedy_tokens = by_sampler(logits, rows)
    for at, (params, _, _) in enumerate(rows):
        if params.temperature == 0:
            assert got[at].argmax() == greedy_tokens[at], (number, at)
        else:
            assert expected is not None
            assert torch.equal(got[at], expected[at]), (number, at, params)
    return len(rows)


def check_custom_ones_are_refused() -> None:
    said = ""
    try:
        gpu_model_runner.build_logitsprocs(CONFIG, DEVICE, False, False, (Custom,))
    except ConfigError as error:
        said = str(error)
    assert "but Custom is given (--logits-processors)" in said, said


if __name__ == "__main__":
    torch.set_num_threads(1)
    rejection_sampler.expand_batch_to_tokens = cpu._expand_batch_to_tokens  # vLLM's needs a GPU, or its CPU worker
    drafted_rows.install()
    drafted_rows.install()
    check_custom_ones_are_refused()
    rng = np.random.default_rng(11)
    print(f"{sum(one_step(rng, number) for number in range(300))} drafted rows equal")
