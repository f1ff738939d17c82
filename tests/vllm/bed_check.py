"""Run under .venv-vllm's python by test_vllm_bed.py: each numpy kernel of the bed is the interpreted kernel.

With a path as its argument it writes a few launches of each kernel to that file, for `bench.gpu`, which has the real
kernels do them again on a GPU (docs/gpu_box.md).
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import v2_bed
from in_process import PROMPTS, texts
from kernel_vectors import Recorder, kernels, save
from scripted_edges import ScriptedEdge, drive, plugin_engine
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.worker.gpu.spec_decode.ngram import speculator as ngram
from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

LENGTH = 8


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


def look_up(rng: np.random.Generator) -> None:
    """Launch the kernels of vLLM's own prompt lookup, which no session has: rows of few different tokens."""
    requests, length, drafts = 6, 64, 8
    lengths = torch.tensor([0, 2, 3, 20, 63, 64], dtype=torch.int32)
    sampled = torch.tensor([0, 1, 1, 2, 1, 1], dtype=torch.int32)
    tokens = torch.from_numpy(rng.integers(0, 3, (requests, length), np.int32))
    rows = torch.tensor([5, 3, 4, 0, 2, 1])
    scratch = torch.full((requests, 2), -1, dtype=torch.int64)
    ngram._ngram_scan_kernel[(requests, 2)](
        tokens, length, rows, lengths, sampled, scratch, 2, length, 2, 4, 4, 32, num_warps=4, num_stages=2
    )
    last = torch.arange(requests)
    proposed = torch.full((requests, drafts), -1, dtype=torch.int64)
    ngram._ngram_finalize_kernel[(requests,)](
        tokens, length, rows, lengths, sampled, last, scratch, 2, proposed, length, 2, drafts, drafts, 2
    )


def reject(rng: np.random.Generator, n_vocab: int) -> None:
    """Launch those of vLLM's own rejection sampling at temperature 0: 3 drafts each, none to all of them right."""
    counts = np.array([3, 0, 3, 2, 3], np.int32)
    ends = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int32)
    logits = torch.from_numpy(rng.integers(0, 2**14, (int(ends[-1]), n_vocab)).astype(np.float32))
    drafts = torch.cat([torch.zeros(1, dtype=torch.int64), logits.argmax(dim=1)[:-1]])
    drafts[[2, 7]] = 5
    drafts[11] = -1
    rows = torch.tensor([4, 0, 1, 3, 2])
    of_logits = torch.from_numpy(np.repeat(rows.numpy(), counts + 1))
    local = torch.from_numpy(np.concatenate([np.arange(n + 1) for n in counts]))
    rejection_sample(
        logits, None, drafts, torch.from_numpy(ends), torch.arange(len(logits)), rows, of_logits, local,
        torch.zeros(5), torch.arange(5), 3,
    )  # fmt: skip


def main(path: str | None = None) -> None:
    recorder = v2_bed.RECORDER = Recorder() if path else None
    params = list(parameters().values())
    prompts = list(PROMPTS + PROMPTS)[: len(params)]
    llm = plugin_engine()
    rng = random.Random(3)
    expected = texts(llm, prompts, params)
    sessions = [
        (f"session {number}", *of_edge) for number, of_edge in enumerate(zip(prompts, params, expected, strict=True))
    ]
    # One by one where launches are recorded: those of few rows are kept.
    for together in [[session] for session in sessions] if path else [sessions]:
        drive(llm, [ScriptedEdge(llm, *session, rng, wrong=0.4, aheads=(0,)) for session in together], rng)
    look_up(np.random.default_rng(3))
    for n_vocab in (1100, 9000):  # one block of logits, and two
        reject(np.random.default_rng(3), n_vocab)
    left = v2_bed.KERNELS.keys() - v2_bed.SHADOWED.keys() - v2_bed.NOT_INTERPRETED
    assert not left, f"never run: {sorted(left)}"
    if recorder is not None and path is not None:
        save(Path(path), recorder.launches, recorder.arrays)
        kept = kernels(recorder.launches)
        assert kept.keys() == v2_bed.KERNELS.keys(), f"not recorded: {sorted(v2_bed.KERNELS.keys() - kept.keys())}"
        print(f"{kept.total()} launches of {len(kept)} kernels in {path}")
    print(f"{len(v2_bed.SHADOWED)} kernels in {v2_bed.SHADOWED.total()} launches: equal")


if __name__ == "__main__":
    main(*sys.argv[1:2])
