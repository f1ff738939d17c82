"""The kernels of V2's model runner in numpy: what every step launches. Argument names are the kernels' own."""

# ruff: noqa: ARG001  the arguments are the kernel's

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from kernel_table import Kernels, numbers_at
from numpy.typing import NDArray

KERNELS: Final = Kernels()


@KERNELS
def _apply_write(
    *, grid: Any, output_ptr: Any, output_stride: Any, write_indices_ptr: Any, write_starts_ptr: Any,
    write_contents_ptr: Any, write_cu_lens_ptr: Any, write_group_ids_ptr: Any, BLOCK_SIZE: Any, MULTI_GROUP: Any,
) -> None:  # fmt: skip
    begin = 0
    for i in range(grid[0]):
        end = int(write_cu_lens_ptr[i])
        row, start, n = int(write_indices_ptr[i]), int(write_starts_ptr[i]), end - begin
        if MULTI_GROUP:
            group = int(write_group_ids_ptr[i])
            to = numbers_at(output_ptr[group] + 4 * (row * int(output_stride[group]) + start), n)
        else:
            to = output_ptr[row : row + 1] if output_ptr.ndim == 1 else output_ptr[row, start : start + n]
        to[:] = write_contents_ptr[begin:end]
        begin = end


@KERNELS
def _prepare_prefill_inputs(
    *, grid: Any, input_ids_ptr: Any, next_prefill_tokens_ptr: Any, next_prefill_tokens_stride: Any,
    num_lookahead: Any, idx_mapping_ptr: Any, query_start_loc_ptr: Any, all_token_ids_ptr: Any,
    all_token_ids_stride: Any, prefill_lens_ptr: Any, num_computed_tokens_ptr: Any, BLOCK_SIZE: Any,
    LOOKAHEAD_BLOCK: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = idx_mapping_ptr[i]
        length, computed = int(prefill_lens_ptr[row]), int(num_computed_tokens_ptr[row])
        if computed >= length:
            continue
        start, end = query_start_loc_ptr[i : i + 2]
        input_ids_ptr[start:end] = all_token_ids_ptr[row, computed : computed + end - start]
        at = computed + int(end - start)
        for k in range(num_lookahead):
            next_prefill_tokens_ptr[k, row] = all_token_ids_ptr[row, at + k] if at + k < length else 0


@KERNELS
def _prepare_pos_seq_lens(
    *, grid: Any, pos_ptr: Any, seq_lens_ptr: Any, idx_mapping_ptr: Any, query_start_loc_ptr: Any,
    num_computed_tokens_ptr: Any, max_num_reqs: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    n = grid[0] - 1
    seq_lens_ptr[n:max_num_reqs] = 0
    for i in range(n):
        computed = int(num_computed_tokens_ptr[idx_mapping_ptr[i]])
        start, end = query_start_loc_ptr[i : i + 2]
        seq_lens_ptr[i] = computed + end - start
        pos_ptr[start:end] = np.arange(computed, computed + end - start)


@KERNELS
def _combine_sampled_and_draft_tokens(
    *, grid: Any, input_ids_ptr: Any, idx_mapping_ptr: Any, last_sampled_tokens_ptr: Any, query_start_loc_ptr: Any,
    seq_lens_ptr: Any, prefill_len_ptr: Any, draft_tokens_ptr: Any, draft_tokens_stride: Any, cu_num_logits_ptr: Any,
    logits_indices_ptr: Any, BLOCK_SIZE: Any, NUM_NEW_SAMPLED_TOKENS: Any = 1,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = idx_mapping_ptr[i]
        first, last = (int(x) for x in cu_num_logits_ptr[i : i + 2])
        n, end = last - first, int(query_start_loc_ptr[i + 1])
        logits_indices_ptr[first:last] = np.arange(end - n, end)
        length, prefill = int(seq_lens_ptr[i]), int(prefill_len_ptr[row])
        if length <= prefill:
            continue
        if NUM_NEW_SAMPLED_TOKENS and length - n >= prefill:
            input_ids_ptr[end - n] = last_sampled_tokens_ptr[row, 0]
        drafts = n - NUM_NEW_SAMPLED_TOKENS
        if drafts > 0:
            input_ids_ptr[end - drafts : end] = draft_tokens_ptr[row, :drafts]


@KERNELS
def _get_num_sampled_and_rejected(
    *, grid: Any, num_sampled_ptr: Any, num_rejected_ptr: Any, seq_lens_ptr: Any, cu_num_logits_ptr: Any,
    idx_mapping_ptr: Any, prefill_len_ptr: Any,
) -> None:  # fmt: skip
    n = grid[0]
    chunked = seq_lens_ptr[:n] < prefill_len_ptr[idx_mapping_ptr[:n]]
    num_sampled_ptr[:n][chunked] = 0
    num_rejected_ptr[:n] = np.where(chunked, 0, np.diff(cu_num_logits_ptr[: n + 1]) - num_sampled_ptr[:n])


@KERNELS
def _post_update(
    *, grid: Any, idx_mapping_ptr: Any, num_computed_tokens_ptr: Any, last_sampled_tokens_ptr: Any,
    output_bin_counts_ptr: Any, output_bin_counts_stride: Any, sampled_tokens_ptr: Any, sampled_tokens_stride: Any,
    num_sampled_ptr: Any, num_rejected_ptr: Any, query_start_loc_ptr: Any, all_token_ids_ptr: Any,
    all_token_ids_stride: Any, total_len_ptr: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        row = int(idx_mapping_ptr[i])
        if row < 0:
            continue
        n, total = int(num_sampled_ptr[i]), int(total_len_ptr[row])
        tokens = sampled_tokens_ptr[i, :n]
        if n:
            last_sampled_tokens_ptr[row, 0] = tokens[-1]
            total_len_ptr[row] = total + n
            all_token_ids_ptr[row, total : total + n] = tokens
            if output_bin_counts_ptr is not None:
                np.add.at(output_bin_counts_ptr[row], tokens, 1)
        length = 0 if query_start_loc_ptr is None else int(query_start_loc_ptr[i + 1] - query_start_loc_ptr[i])
        num_computed_tokens_ptr[row] += length - int(num_rejected_ptr[i])


@KERNELS
def _expand_idx_mapping(
    *, grid: Any, idx_mapping_ptr: Any, expanded_idx_mapping_ptr: Any, expanded_local_pos_ptr: Any,
    cu_num_logits_ptr: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        start, end = cu_num_logits_ptr[i : i + 2]
        expanded_idx_mapping_ptr[start:end] = idx_mapping_ptr[i]
        expanded_local_pos_ptr[start:end] = np.arange(end - start)


@KERNELS
def _gather_block_tables(
    *, grid: Any, batch_idx_to_req_idx: Any, src_block_table_ptrs: Any, dst_block_table_ptrs: Any,
    block_table_strides: Any, num_blocks_ptr: Any, num_blocks_stride: Any, num_reqs: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    for group in range(grid[0]):
        stride = int(block_table_strides[group])
        for i in range(grid[1]):
            to = numbers_at(dst_block_table_ptrs[group] + 4 * i * stride, stride)
            if i >= num_reqs:
                to[:] = 0
                continue
            row = int(batch_idx_to_req_idx[i])
            n = int(num_blocks_ptr[group, row])
            to[:n] = numbers_at(src_block_table_ptrs[group] + 4 * row * stride, max(n, 1))[:n]


@KERNELS
def _compute_slot_mappings(
    *, grid: Any, max_num_tokens: Any, idx_mapping: Any, query_start_loc: Any, pos: Any, block_table_ptrs: Any,
    block_table_strides: Any, block_sizes: Any, slot_mapping_enabled: Any, dcp_sharded: Any, slot_mappings_ptr: Any,
    slot_mappings_stride: Any, cp_rank: Any, CP_SIZE: Any, CP_INTERLEAVE: Any, PAD_ID: Any, TRITON_BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    assert CP_SIZE == 1, "no context parallelism here"
    n = grid[1] - 1
    for group in range(grid[0]):
        size, stride = int(block_sizes[group]), int(block_table_strides[group])
        slots = slot_mappings_ptr[group]
        slots[int(query_start_loc[n]) : max_num_tokens] = PAD_ID
        for i in range(n):
            start, end = query_start_loc[i : i + 2]
            row = int(idx_mapping[i])
            if row < 0 or not slot_mapping_enabled[group]:
                slots[start:end] = PAD_ID
                continue
            table, at = numbers_at(block_table_ptrs[group] + 4 * row * stride, stride), pos[start:end]
            slots[start:end] = table[at // size].astype(np.int64) * size + at % size


@KERNELS
def _gather_draft_sampled(
    *, grid: Any, draft_sampled_ptr: Any, pos_ptr: Any, input_ids_ptr: Any, positions_ptr: Any,
    logits_indices_ptr: Any, expanded_idx_mapping_ptr: Any, expanded_local_pos_ptr: Any, prefill_len_ptr: Any,
    num_logits: Any, BLOCK_SIZE: Any,
) -> None:  # fmt: skip
    at = logits_indices_ptr[:num_logits]
    pos, local = positions_ptr[at], expanded_local_pos_ptr[:num_logits]
    placeholder = (local > 0) & (pos - local < prefill_len_ptr[expanded_idx_mapping_ptr[:num_logits]])
    draft_sampled_ptr[:num_logits] = np.where(placeholder, -1, input_ids_ptr[at])
    pos_ptr[:num_logits] = pos


@KERNELS
def _flatten_sampled(
    *, grid: Any, flat_sampled_ptr: Any, sampled_ptr: Any, sampled_stride: Any, num_sampled_ptr: Any,
    cu_num_logits_ptr: Any,
) -> None:  # fmt: skip
    for i in range(grid[0]):
        start, n = int(cu_num_logits_ptr[i]), int(num_sampled_ptr[i])
        flat_sampled_ptr[start : start + n] = sampled_ptr[i, :n]


def _destinations(grid: Any, given: dict[str, Any]) -> list[NDArray[np.int32]]:
    tables, strides = given["dst_block_table_ptrs"], given["block_table_strides"]
    return [numbers_at(tables[group], grid[1] * strides[group]) for group in range(grid[0])]


def _rows(grid: Any, given: dict[str, Any]) -> list[NDArray[np.int32]]:
    if not given["MULTI_GROUP"]:
        return []
    found, begin = [], 0
    for i in range(grid[0]):
        end, group = int(given["write_cu_lens_ptr"][i]), int(given["write_group_ids_ptr"][i])
        offset = int(given["write_indices_ptr"][i]) * int(given["output_stride"][group])
        first = offset + int(given["write_starts_ptr"][i])
        found.append(numbers_at(given["output_ptr"][group] + 4 * first, end - begin))
        begin = end
    return found


WRITTEN_BY_ADDRESS: Final[dict[str, Callable[[Any, dict[str, Any]], list[NDArray[np.int32]]]]] = {
    "_apply_write_kernel": _rows,
    "_gather_block_tables_kernel": _destinations,
}
"""Memory that a kernel writes to without being given it as a tensor."""
