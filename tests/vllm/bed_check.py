"""Run under .venv-vllm's python by test_vllm_bed.py: each numpy kernel of the bed is the interpreted kernel."""

from __future__ import annotations

from typing import Any

import v2_bed
from in_process import PROMPTS, engine, texts
from sampling_kernels import NOT_INTERPRETED
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

LENGTH = 8
OF_DRAFTS = {"_expand_idx_mapping_kernel", "_flatten_sampled_kernel", "_gather_draft_sampled_kernel"}
"""Kernels of steps with drafts only."""


def parameters() -> dict[str, Any]:
    """One for each kernel of the sampler at least; bad words of one token and of several."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    every: dict[str, dict[str, Any]] = {
        "greedy": {"temperature": 0},
        "noise": {"temperature": 0.8, "seed": -(2**63), "top_p": 0.9, "top_k": 50},
        "min_p": {"temperature": 1.3, "seed": 2**63 - 1, "min_p": 0.05, "logprobs": 3},
        "penalties": {"temperature": 0.9, "seed": 4, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
        "presence": {"temperature": 0, "presence_penalty": 1.5, "logprobs": 0},
        "bias": {"temperature": 0.8, "seed": 5, "logit_bias": {300: 4.0, 16: -5.0}, "min_tokens": 4},
        "allowed": {"temperature": 0.8, "seed": 3, "allowed_token_ids": list(range(260, 900))},
        "bad words": {"temperature": 0, "bad_words": ["the", " a", "quick brown", " there was", " two three"]},
        "schema": {"temperature": 0.9, "seed": 6, "structured_outputs": StructuredOutputsParams(json=schema)},
    }
    return {name: SamplingParams(max_tokens=LENGTH, **one) for name, one in every.items()}


def main() -> None:
    params = list(parameters().values())
    texts(engine(), list(PROMPTS + PROMPTS)[: len(params)], params)
    left = v2_bed.KERNELS.keys() - v2_bed.SHADOWED.keys() - NOT_INTERPRETED
    assert left <= OF_DRAFTS, f"never run: {sorted(left)}"
    print(f"{len(v2_bed.SHADOWED)} kernels in {v2_bed.SHADOWED.total()} launches: equal")


if __name__ == "__main__":
    main()
