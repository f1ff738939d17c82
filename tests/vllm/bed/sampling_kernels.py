"""V2's sampling in numpy: logits processing, the draw, logprobs. Argument names are the kernels' own."""

# ruff: noqa: ARG001  the arguments are the kernel's

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
from kernel_table import Kernels
from numpy.typing import NDArray

KERNELS: Final = Kernels()
MASKED: Final = np.float32(-np.inf)


@KERNELS
def _temperature(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, expanded_idx_mapping_ptr: Any, temperature_ptr: Any,
    vocab_size: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    temperature = temperature_ptr[expanded_idx_mapping_ptr[: grid[0]]].astype(np.float32)
    temperature[temperature == 0] = 1
    logits_ptr[: grid[0]] /= temperature[:, None]


@KERNELS
def _min_p(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, expanded_idx_mapping_ptr: Any, min_p_ptr: Any,
    vocab_size: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    n = grid[0]
    min_p, rows = min_p_ptr[expanded_idx_mapping_ptr[:n]].astype(np.float32), logits_ptr[:n]
    with np.errstate(divide="ignore"):
        threshold = np.where(min_p == 0, -np.inf, rows.max(1).astype(np.float32) + np.log(min_p))
    rows[rows < threshold[:, None]] = MASKED


@KERNELS
def _penalties(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, expanded_idx_mapping_ptr: Any, token_ids_ptr: Any,
    expanded_local_pos_ptr: Any, repetition_penalty_ptr: Any, frequency_penalty_ptr: Any, presence_penalty_ptr: Any,
    prompt_bin_mask_ptr: Any, prompt_bin_mask_stride: Any, output_bin_counts_ptr: Any, output_bin_counts_stride: Any,
    vocab_size: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        slot = int(expanded_idx_mapping_ptr[i])
        repetition, frequency, presence = (
            p[slot] for p in (repetition_penalty_ptr, frequency_penalty_ptr, presence_penalty_ptr)
        )
        if repetition == 1 and frequency == 0 and presence == 0:
            continue
        counts = output_bin_counts_ptr[slot, :vocab_size].copy()
        local = int(expanded_local_pos_ptr[i])
        np.add.at(counts, token_ids_ptr[i - local + 1 : i + 1], 1)
        row = logits_ptr[i, :vocab_size].astype(np.float32)
        if repetition != 1:
            bits = prompt_bin_mask_ptr[slot].astype(np.int32)[:, None] >> np.arange(32) & 1
            seen = bits.reshape(-1)[:vocab_size].astype(bool) | (counts > 0)
            scale = np.where(seen, repetition, np.float32(1))
            row *= np.where(row > 0, np.float32(1) / scale, scale)
        row -= frequency * counts
        row -= presence * (counts > 0)
        logits_ptr[i, :vocab_size] = row


@KERNELS
def _topk_log_softmax(
    *, grid: Any, output_ptr: Any, logits_ptr: Any, logits_stride: Any, topk_ids_ptr: Any, topk_ids_stride: Any,
    topk: Any, vocab_size: Any, BLOCK_SIZE: Any, TOPK_BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = logits_ptr[i, :vocab_size].astype(np.float32)
        best = row.max()
        output_ptr[i, :topk] = row[topk_ids_ptr[i, :topk]] - best - np.log(np.exp(row - best).sum())


@KERNELS
def _ranks(
    *, grid: Any, output_ptr: Any, logits_ptr: Any, logits_stride: Any, token_ids_ptr: Any, vocab_size: Any,
    BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        output_ptr[i] = (logits_ptr[i, :vocab_size] >= logits_ptr[i, token_ids_ptr[i]]).sum()


@KERNELS
def _apply_grammar_bitmask(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, logits_indices_ptr: Any, cu_num_logits_ptr: Any,
    bitmask_ptr: Any, bitmask_stride: Any, vocab_size: Any, MASK_STRIDE: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    """The interpreter cannot run this one (Triton 3.9: "mask has unsupported dtype")."""
    for i in range(grid[0]):
        request, position = divmod(int(logits_indices_ptr[i]), MASK_STRIDE)
        first, last = cu_num_logits_ptr[request : request + 2]
        if position < last - first:
            bits = bitmask_ptr[i][:, None] >> np.arange(32, dtype=np.int32) & 1
            logits_ptr[first + position, :vocab_size][bits.reshape(-1)[:vocab_size] == 0] = MASKED


@KERNELS
def _gumbel_sample(
    *, grid: Any, local_argmax_ptr: Any, local_argmax_stride: Any, local_max_ptr: Any, local_max_stride: Any,
    logits_cache_ptr: Any, logits_cache_stride_0: Any, logits_cache_stride_1: Any, logits_cache_col_ptr: Any,
    logits_cache_source_ptr: Any, logits_cache_source_stride: Any, logits_ptr: Any, logits_stride: Any,
    expanded_idx_mapping_ptr: Any, seeds_ptr: Any, pos_ptr: Any, temp_ptr: Any, vocab_size: Any, BLOCK_SIZE: Any,
    IS_DRAFTING: Any, APPLY_TEMPERATURE: Any, USE_FP64: Any, PER_TOKEN_COL: Any,
) -> None:  # fmt: skip
    assert logits_cache_ptr is None
    assert not IS_DRAFTING
    assert not USE_FP64
    for i in range(grid[0]):
        row = int(expanded_idx_mapping_ptr[i])
        scores = logits_ptr[i].astype(np.float32)
        temperature = np.float32(temp_ptr[row]) if row >= 0 else np.float32(0)
        if temperature != 0:
            if APPLY_TEMPERATURE:
                scores = scores / temperature
            scores = scores + gumbel32(int(seeds_ptr[row]), int(pos_ptr[i]), vocab_size)
        for block in range(grid[1]):
            part = scores[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
            best = int(part.argmax())
            local_argmax_ptr[i, block], local_max_ptr[i, block] = block * BLOCK_SIZE + best, part[best]


@KERNELS
def _bias(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, vocab_size: Any, expanded_idx_mapping_ptr: Any,
    num_allowed_token_ids_ptr: Any, allowed_token_ids_ptr: Any, allowed_token_ids_stride: Any,
    num_logit_bias_ptr: Any, bias_token_ids_ptr: Any, bias_token_ids_stride: Any, bias_ptr: Any, bias_stride: Any,
    pos_ptr: Any, min_lens_ptr: Any, num_stop_token_ids_ptr: Any, restore_when_all_masked_ptr: Any,
    stop_token_ids_ptr: Any, stop_token_ids_stride: Any, BLOCK_SIZE: Any, LOGITS_BLOCK_SIZE: Any,
    CHECK_ALL_MASKED_ROWS: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        slot = int(expanded_idx_mapping_ptr[i])
        row = logits_ptr[i, :vocab_size]
        if n := int(num_allowed_token_ids_ptr[slot]):
            ids = allowed_token_ids_ptr[slot, :n]
            kept = row[ids]
            row[:] = MASKED
            row[ids] = kept
        if n := int(num_logit_bias_ptr[slot]):
            row[bias_token_ids_ptr[slot, :n]] += bias_ptr[slot, :n]
        n = int(num_stop_token_ids_ptr[slot])
        if n and pos_ptr[i] + 1 < min_lens_ptr[slot]:
            ids = stop_token_ids_ptr[slot, :n]
            kept = row[ids]
            row[ids] = MASKED
            if CHECK_ALL_MASKED_ROWS and restore_when_all_masked_ptr[slot] and row.max() == MASKED:
                finite = np.isfinite(kept)
                row[ids[finite]] = kept[finite]


@KERNELS
def _bad_words(
    *, grid: Any, logits_ptr: Any, logits_stride: Any, expanded_idx_mapping_ptr: Any, bad_word_token_ids_ptr: Any,
    bad_word_token_ids_stride: Any, bad_word_offsets_ptr: Any, bad_word_offsets_stride: Any, num_bad_words_ptr: Any,
    all_token_ids_ptr: Any, all_token_ids_stride: Any, prompt_len_ptr: Any, total_len_ptr: Any, input_ids_ptr: Any,
    expanded_local_pos_ptr: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        slot, local = int(expanded_idx_mapping_ptr[i]), int(expanded_local_pos_ptr[i])
        first, last = int(prompt_len_ptr[slot]), int(total_len_ptr[slot])
        # Decided tokens, then the drafts before this row; a row's token is the one that the row follows.
        drafts = input_ids_ptr[i - local + 1 : i + 1].tolist()
        output = all_token_ids_ptr[slot, first:last].tolist() + drafts
        for word in range(int(num_bad_words_ptr[slot])):
            start, end = (int(x) for x in bad_word_offsets_ptr[slot, word : word + 2])
            *beginning, token = bad_word_token_ids_ptr[slot, start:end].tolist()
            if len(beginning) <= len(output) and output[len(output) - len(beginning) :] == beginning:
                logits_ptr[i, token] = MASKED


@KERNELS
def _bincount(
    *, grid: Any, expanded_idx_mapping_ptr: Any, all_token_ids_ptr: Any, all_token_ids_stride: Any,
    prompt_len_ptr: Any, prefill_len_ptr: Any, prompt_bin_mask_ptr: Any, prompt_bin_mask_stride: Any,
    output_bin_counts_ptr: Any, output_bin_counts_stride: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        slot = int(expanded_idx_mapping_ptr[i])
        first, last = int(prompt_len_ptr[slot]), int(prefill_len_ptr[slot])
        prompt, output = np.split(all_token_ids_ptr[slot, :last].astype(np.int64), [first])
        np.bitwise_or.at(
            prompt_bin_mask_ptr[slot], prompt // 32, np.left_shift(np.int32(1), (prompt % 32).astype(np.int32))
        )
        np.add.at(output_bin_counts_ptr[slot], output, 1)


@functools.lru_cache(maxsize=4)
def _keys(n: int) -> NDArray[np.uint32]:
    key = np.arange(n, dtype=np.uint32) * np.uint32(0xCC9E2D51)
    mixed: NDArray[np.uint32] = (key << np.uint32(15) | key >> np.uint32(17)) * np.uint32(0x1B873593)
    return mixed


def _mix(h: int, key: int) -> int:
    mask = 0xFFFFFFFF
    key = key * 0xCC9E2D51 & mask
    key = (key << 15 | key >> 17) * 0x1B873593 & mask
    h ^= key
    return ((h << 13 | h >> 19) & mask) * 5 + 0xE6546B64 & mask


def gumbel32(seed: int, pos: int, n: int) -> NDArray[np.float32]:
    """The noise of `murmur3_uniform32` and `gumbel_noised_argmax`, in float32 as there."""
    prefix = _mix(_mix(_mix(0, seed & 0xFFFFFFFF), seed >> 32 & 0xFFFFFFFF), pos & 0xFFFFFFFF)
    h = np.uint32(prefix) ^ _keys(n)
    h = (h << np.uint32(13) | h >> np.uint32(19)) * np.uint32(5) + np.uint32(0xE6546B64)
    h ^= np.uint32(16)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    f = np.float32
    u = (h >> np.uint32(16)).astype(f) * f(1.52587890625e-05)
    u = u + ((h & np.uint32(0xFFFF)).astype(f) + f(0.5)) * f(2.3283064365386963e-10)
    series = np.full_like(u, 1 / 8)
    for k in (7, 6, 5, 4, 3, 2, 1):
        series = f(1 / k) + u * series
    with np.errstate(divide="ignore"):
        direct = np.log(np.maximum(f(1) - u, f(5.960464477539063e-08)))
        noise: NDArray[np.float32] = -np.log(-np.where(u < f(0.25), -u * series, direct))
    return noise
