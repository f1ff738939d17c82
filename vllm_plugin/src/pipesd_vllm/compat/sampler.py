"""Shared-noise sampling (architecture §5) inside vLLM's own samplers.

vLLM's logits processing (penalties, grammar, bad words, temperature, top-k, top-p) stays as it is; only the draw itself
is replaced, for the requests that ask for it: the token at absolute index p is the argmax of the processed logits plus
the noise of (seed, p - 1). A draft is accepted iff it is that token. Replaced are the draw of drafted rows
(`rejection_sample`) and that of a request's last row (`TopKTopPSampler`), both before logprobs are gathered.

vLLM draws the last rows first. In a step with drafts they wait for the drafted ones, and all rows are drawn at once, on
the device of the logits (`pipesd_core.sampling.torch_noise`), for which nothing else here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from pipesd_core.sampling.params import GREEDY_BELOW
from pipesd_core.sampling.torch_noise import Draw, upload
from pipesd_vllm.compat.replacing import replace_once
from pipesd_vllm.park_keys import NOISE_ARG


class _Rows:
    """The requests of a step that draw shared noise, as arrays with one entry for each.

    batch_rows: their rows in the batch; seeds; indices: absolute ones of the next token; drafts: how many in this step.
    """

    def __init__(self, runner: Any, counts: list[int] | None) -> None:
        batch = runner.input_batch
        found = []
        for batch_row, request_id in enumerate(batch.req_ids):
            params = runner.requests[request_id].sampling_params
            if (
                params is not None
                and params.extra_args
                and params.extra_args.get(NOISE_ARG)
                and params.seed is not None
                and params.temperature >= GREEDY_BELOW
            ):
                drafts = counts[batch_row] if counts is not None else 0
                found.append((batch_row, params.seed, int(batch.num_tokens_no_spec[batch_row]), drafts))
        self.batch_rows, self.seeds, self.indices, self.drafts = np.array(found, dtype=np.int64).reshape(-1, 4).T


class _Step:
    """State of the step under way that the samplers share; the worker has one thread."""

    def __init__(self, n_vocab: int) -> None:
        self.draw = Draw(n_vocab)
        self.rows: _Rows | None = None
        self.speculative = False
        self.last: torch.Tensor | None = None
        """The processed logits of the rows' last tokens, until the drafted ones are there."""


def install(n_vocab: int) -> None:
    """Install the draws in vLLM's samplers. Once per worker process."""
    step = _Step(n_vocab)
    if replace_once(GPUModelRunner, "_sample", partial(_whole_step, step)):
        _wrap_drafted(step)


def _whole_step(step: _Step, original: Callable[..., Any]) -> Callable[..., Any]:
    def _sample(self: Any, logits: Any, spec_decode_metadata: Any) -> Any:
        metadata = spec_decode_metadata
        if metadata is not None and not any(metadata.num_draft_tokens):
            metadata = None  # vLLM's rejection sampler has nothing to reject, at twice the cost of its ordinary sampler
        replace_once(self.sampler.topk_topp_sampler, "forward", partial(_last_rows, step))
        rows = _Rows(self, metadata.num_draft_tokens if metadata is not None else None)
        step.rows = rows if len(rows.batch_rows) else None
        step.speculative = metadata is not None
        try:
            return original(self, logits, metadata)
        finally:
            step.rows = step.last = None

    return _sample


def _last_rows(step: _Step, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(logits: torch.Tensor, generators: Any, k: torch.Tensor | None, p: torch.Tensor | None) -> Any:
        if (rows := step.rows) is None:
            return original(logits, generators, k, p)
        batch_rows = upload(rows.batch_rows, logits.device)
        kept = logits[batch_rows]  # a copy: the original may work in place
        kept = apply_top_k_top_p(kept, None if k is None else k[batch_rows], None if p is None else p[batch_rows])
        if step.speculative:
            step.last = kept
            return original(logits, generators, k, p)
        tokens = step.draw.tokens(kept, rows.seeds, rows.indices)
        sampled, logprobs = original(logits, generators, k, p)
        sampled[batch_rows] = tokens.to(sampled.dtype)
        return sampled, logprobs

    return forward


def _wrap_drafted(step: _Step) -> None:
    original = rejection_sampler.rejection_sample

    def rejection_sample(
        draft_token_ids: torch.Tensor,
        num_draft_tokens: list[int],
        max_spec_len: int,
        cu_num_draft_tokens: torch.Tensor,
        draft_probs: torch.Tensor | None,
        target_logits: torch.Tensor,
        bonus_token_ids: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        ours = None
        if step.rows is not None and step.last is not None:
            # Before the original, which may turn the logits into probabilities in place.
            ours = _walk(step.draw, step.rows, num_draft_tokens, draft_token_ids, target_logits, step.last)
        output: torch.Tensor = original(
            draft_token_ids,
            num_draft_tokens,
            max_spec_len,
            cu_num_draft_tokens,
            draft_probs,
            target_logits,
            bonus_token_ids,
            *args,
            **kwargs,
        )
        if ours is not None:
            batch_rows, tokens = ours
            output[batch_rows] = rejection_sampler.PLACEHOLDER_TOKEN_ID
            output[batch_rows, : tokens.shape[1]] = tokens.to(output.dtype)
        return output

    rejection_sampler.rejection_sample = rejection_sample


def _walk(
    draw: Draw, rows: _Rows, counts: list[int], drafts: torch.Tensor, logits: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows in the batch, tokens (rows, most drafts + 1)) of the requests that draw shared noise.

    A row has the tokens up to the first that is not the draft, or all and the last when every draft was right, and then
    placeholders. counts, drafts, logits: of all drafted tokens of the step; last: logits (rows, n_vocab).
    """
    row, offset = np.nonzero(np.arange(rows.drafts.max()) < rows.drafts[:, None])  # of each drafted token of ours
    flat = (np.cumsum(counts) - np.array(counts))[rows.batch_rows][row] + offset  # where it is in drafts and logits
    row, offset = np.append(row, np.arange(len(rows.drafts))), np.append(offset, rows.drafts)  # then the last ones
    batch_rows, at_row, at_offset, at_flat = (upload(a, logits.device) for a in (rows.batch_rows, row, offset, flat))
    drawn = draw.tokens(torch.cat([logits[at_flat], last]), rows.seeds[row], rows.indices[row] + offset)
    tokens = drawn.new_zeros(len(batch_rows), int(rows.drafts.max()) + 1)
    tokens[at_row, at_offset] = drawn
    asked = torch.full_like(tokens, -1)
    asked[at_row[: len(flat)], at_offset[: len(flat)]] = drafts[at_flat].to(asked.dtype)
    accepted = (tokens == asked).long().cumprod(1).sum(1, keepdim=True)
    columns = torch.arange(tokens.shape[1], device=logits.device)
    return batch_rows, tokens.masked_fill(columns > accepted, rejection_sampler.PLACEHOLDER_TOKEN_ID)
