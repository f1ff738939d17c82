"""The kernels of V2's own `ngram` speculation in numpy: its proposals, and its rejection sampling at temperature 0.

No session has them; bench/vllm measures the plugin beside them on the bed.
"""

# ruff: noqa: ARG001  the arguments are the kernel's

from __future__ import annotations

from typing import Any, Final

import numpy as np
from kernel_table import Kernels

KERNELS: Final = Kernels()
GREEDY: Final = Kernels()
"""Of steps whose temperatures are all 0; in others these kernels are interpreted."""


@KERNELS
def _ngram_scan(
    *, grid: Any, token_ids_ptr: Any, token_ids_stride: Any, idx_mapping_ptr: Any, total_len_ptr: Any,
    num_sampled_ptr: Any, scratch_ptr: Any, scratch_stride: Any, L: Any, MIN_N: Any, MAX_N: Any, MAX_N_PO2: Any,
    BLOCK_L: Any,
) -> None:  # fmt: skip
    n_blocks = grid[1]
    for i in range(grid[0]):
        row = idx_mapping_ptr[i]
        length = int(total_len_ptr[row])
        scores = np.zeros(n_blocks * BLOCK_L, np.int64)
        # The longest match wins, then the last one: as one number, length x (L + 1) + position + 1.
        for n in range(MIN_N, MAX_N + 1) if num_sampled_ptr[i] > 0 else ():
            places = length - n
            if places < 1:
                break
            tokens = token_ids_ptr[row, :length]
            match = np.ones(places, bool)
            for j in range(n):
                match &= tokens[j : j + places] == tokens[places + j]
            found = np.flatnonzero(match)
            scores[found] = n * (L + 1) + found + 1
        scratch_ptr[i, :n_blocks] = scores.reshape(n_blocks, BLOCK_L).max(axis=1)


@KERNELS
def _ngram_finalize(
    *, grid: Any, token_ids_ptr: Any, token_ids_stride: Any, idx_mapping_ptr: Any, total_len_ptr: Any,
    num_sampled_ptr: Any, last_sampled_ptr: Any, scratch_ptr: Any, scratch_stride: Any, drafts_ptr: Any, L: Any,
    N_BLOCKS: Any, K: Any, K_PO2: Any, N_BLOCKS_PO2: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = idx_mapping_ptr[i]
        drafts_ptr[i, :K] = last_sampled_ptr[row]
        score = int(scratch_ptr[i, :N_BLOCKS].max())
        if score == 0 or num_sampled_ptr[i] == 0:
            continue
        n, at = divmod(score - 1, L + 1)
        proposed = token_ids_ptr[row, at + n : min(at + n + K, int(total_len_ptr[row]))]
        drafts_ptr[i, : len(proposed)] = proposed


@GREEDY
def _compute_local_logits_stats(
    *, grid: Any, target_local_argmax_ptr: Any, target_local_argmax_stride: Any, target_local_max_ptr: Any,
    target_local_max_stride: Any, target_local_sumexp_ptr: Any, target_local_sumexp_stride: Any,
    draft_local_max_ptr: Any, draft_local_max_stride: Any, draft_local_sumexp_ptr: Any,
    draft_local_sumexp_stride: Any, target_logits_ptr: Any, target_logits_stride: Any, draft_logits_ptr: Any,
    draft_logits_stride_0: Any, draft_logits_stride_1: Any, expanded_idx_mapping_ptr: Any,
    expanded_local_pos_ptr: Any, temp_ptr: Any, vocab_size: Any, num_speculative_steps: Any, BLOCK_SIZE: Any,
    HAS_DRAFT_LOGITS: Any,
) -> None:  # fmt: skip
    drafted = np.flatnonzero(expanded_local_pos_ptr[: grid[0]] < num_speculative_steps)
    for block in range(grid[1]):
        start = block * BLOCK_SIZE
        logits = target_logits_ptr[drafted, start : min(start + BLOCK_SIZE, vocab_size)]
        best = logits.argmax(axis=1)
        target_local_argmax_ptr[drafted, block] = start + best
        target_local_max_ptr[drafted, block] = logits[np.arange(len(drafted)), best]


@GREEDY
def _rejection(
    *, grid: Any, sampled_ptr: Any, sampled_stride: Any, rejected_steps_ptr: Any, target_rejected_logsumexp_ptr: Any,
    draft_rejected_logsumexp_ptr: Any, target_logits_ptr: Any, target_logits_stride: Any,
    target_local_argmax_ptr: Any, target_local_argmax_stride: Any, target_local_max_ptr: Any,
    target_local_max_stride: Any, target_local_sumexp_ptr: Any, target_local_sumexp_stride: Any,
    draft_sampled_ptr: Any, draft_logits_ptr: Any, draft_logits_stride_0: Any, draft_logits_stride_1: Any,
    draft_local_max_ptr: Any, draft_local_max_stride: Any, draft_local_sumexp_ptr: Any,
    draft_local_sumexp_stride: Any, cu_num_logits_ptr: Any, idx_mapping_ptr: Any, temp_ptr: Any, seed_ptr: Any,
    pos_ptr: Any, synthetic_conditional_rates_ptr: Any, cumulative_log_p_ptr: Any, local_residual_mass_ptr: Any,
    local_residual_mass_stride: Any, vocab_num_blocks: Any, PADDED_VOCAB_NUM_BLOCKS: Any, HAS_DRAFT_LOGITS: Any,
    SYNTHETIC_MODE: Any, USE_BLOCK_VERIFICATION: Any,
) -> None:  # fmt: skip
    assert not SYNTHETIC_MODE
    for i in range(grid[0]):
        first, last = (int(x) for x in cu_num_logits_ptr[i : i + 2])
        n = last - 1 - first
        blocks = target_local_max_ptr[first : first + n].argmax(axis=1)
        best = target_local_argmax_ptr[np.arange(first, first + n), blocks]
        wrong = np.flatnonzero(best != draft_sampled_ptr[first + 1 : last])
        accepted = int(wrong[0]) if len(wrong) else n
        written = min(accepted + 1, n)  # the first that is wrong is replaced by the target's own
        sampled_ptr[i, :written] = best[:written]
        rejected_steps_ptr[i] = accepted
    target_rejected_logsumexp_ptr[: grid[0]] = 0.0
    draft_rejected_logsumexp_ptr[: grid[0]] = 0.0


@GREEDY
def _resample(
    *, grid: Any, resampled_local_argmax_ptr: Any, resampled_local_argmax_stride: Any, resampled_local_max_ptr: Any,
    resampled_local_max_stride: Any, target_logits_ptr: Any, target_logits_stride: Any,
    target_rejected_logsumexp_ptr: Any, draft_logits_ptr: Any, draft_logits_stride_0: Any,
    draft_logits_stride_1: Any, draft_rejected_logsumexp_ptr: Any, rejected_step_ptr: Any, cu_num_logits_ptr: Any,
    expanded_idx_mapping_ptr: Any, draft_sampled_ptr: Any, temp_ptr: Any, seed_ptr: Any, pos_ptr: Any,
    cumulative_log_p_ptr: Any, contexts_ptr: Any, contexts_stride: Any, watermarking_ptr: Any,
    watermarking_skip_mask_ptr: Any, watermark_key_0: Any, watermark_key_1: Any, vocab_size: Any, BLOCK_SIZE: Any,
    HAS_DRAFT_LOGITS: Any, USE_FP64: Any, USE_BLOCK_VERIFICATION: Any, CONTEXT_WIDTH: Any, WATERMARK: Any,
    DEDUPLICATE_CONTEXTS: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = int(cu_num_logits_ptr[i] + rejected_step_ptr[i])
        if row != cu_num_logits_ptr[i + 1] - 1:
            continue  # a draft was rejected, and replaced already
        for block in range(grid[1]):
            start = block * BLOCK_SIZE
            logits = target_logits_ptr[row, start : min(start + BLOCK_SIZE, vocab_size)]
            best = int(logits.argmax())
            resampled_local_argmax_ptr[i, block] = start + best
            resampled_local_max_ptr[i, block] = logits[best]


@GREEDY
def _insert_resampled(
    *, grid: Any, sampled_ptr: Any, sampled_stride: Any, num_sampled_ptr: Any, resampled_local_argmax_ptr: Any,
    resampled_local_argmax_stride: Any, resampled_local_max_ptr: Any, resampled_local_max_stride: Any,
    resample_num_blocks: Any, cu_num_logits_ptr: Any, expanded_idx_mapping_ptr: Any, temp_ptr: Any,
    PADDED_RESAMPLE_NUM_BLOCKS: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        n = int(num_sampled_ptr[i])
        num_sampled_ptr[i] = n + 1
        if cu_num_logits_ptr[i] + n == cu_num_logits_ptr[i + 1] - 1:
            block = int(resampled_local_max_ptr[i, :resample_num_blocks].argmax())
            sampled_ptr[i, n] = resampled_local_argmax_ptr[i, block]
