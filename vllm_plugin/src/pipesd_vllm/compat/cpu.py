"""Work-arounds for three bugs of vLLM's CPU backend, each applied only where the bug is seen.

1. `expand_batch_to_tokens` leaves its result uninitialised (the compiled code writes into an int64 copy): temperature,
   top-k and top-p of drafted rows are random memory as soon as one request of the batch is not greedy, which gives
   wrong tokens, also to greedy requests, or kills the engine.
2. A step without any draft runs `k.max()` over nothing in `apply_top_k_only`, which kills the engine.
3. A prompt that is computed in parts, of a request with a seed, has its generator set back by an offset, which a CPU's
   generator has not: that kills the engine, without speculation too. It is not set back then, so what such an ordinary
   request draws depends on the number of parts; shared noise does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.logger import init_logger
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from pipesd_vllm.compat.replacing import is_ours, replace_once

logger = init_logger("vllm.pipesd")


def work_around() -> list[str]:
    """Apply what is needed; returns the names of what was replaced. Harmless when repeated."""
    replaced = []
    if expand_is_broken():
        rejection_sampler.expand_batch_to_tokens = _expand_batch_to_tokens
        replaced.append("expand_batch_to_tokens")
    if empty_top_k_is_broken():
        replace_once(rejection_sampler, "apply_sampling_constraints", _without_empty_steps)
        replaced.append("apply_sampling_constraints")
    if rewinding_is_broken():
        replace_once(GPUModelRunner, "_bookkeeping_sync", _without_rewinding)
        replaced.append("_bookkeeping_sync")
    if replaced:
        logger.info("work-arounds for vLLM's CPU backend: %s", ", ".join(replaced))
    return replaced


def expand_is_broken() -> bool:
    """Whether the function gives right results."""
    values, ends = torch.tensor([0.5, 0.0, 7.0]), torch.tensor([2, 2, 5], dtype=torch.int32)
    for _ in range(3):  # memory that was not written may hold the right thing by chance
        got = rejection_sampler.expand_batch_to_tokens(values, ends, 5, 0, 1)
        if got.tolist() != [0.5, 0.5, 7.0, 7.0, 7.0]:
            return True
    return False


def empty_top_k_is_broken() -> bool:
    """Whether top-k over no rows at all raises."""
    try:
        apply_top_k_top_p(torch.empty(0, 8), torch.empty(0, dtype=torch.int32), None)
    except RuntimeError:
        return not is_ours(rejection_sampler.apply_sampling_constraints)
    return False


def rewinding_is_broken() -> bool:
    """Whether the generator of a CPU has no offset where the model runner wants one."""
    try:
        torch.Generator().get_offset()
    except RuntimeError:
        return not is_ours(GPUModelRunner._bookkeeping_sync)
    return False


def _without_rewinding(original: Callable[..., Any]) -> Callable[..., Any]:
    def _bookkeeping_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.device.type != "cpu":
            return original(self, *args, **kwargs)
        batch = self.input_batch
        generators, batch.generators = batch.generators, {}
        try:
            return original(self, *args, **kwargs)
        finally:
            batch.generators = generators

    return _bookkeeping_sync


def _expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    ends = cu_num_tokens.to(torch.int64)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    values = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    return values.repeat_interleave(counts, output_size=num_tokens)


def _without_empty_steps(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply_sampling_constraints(logits: torch.Tensor, cu_num_draft_tokens: torch.Tensor, metadata: Any) -> Any:
        return original(logits, cu_num_draft_tokens, metadata) if logits.shape[0] else logits

    return apply_sampling_constraints
