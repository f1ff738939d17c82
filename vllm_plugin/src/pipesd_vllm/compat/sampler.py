"""Shared-noise sampling (architecture §5) inside vLLM's own samplers.

vLLM's logits processing (penalties, grammar, bad words, temperature, top-k, top-p) stays as it is; only the draw itself
is replaced, for the requests that ask for it: the token at absolute index p is the argmax of the processed logits plus
the noise of (seed, p - 1). A draft is accepted iff it is that token. Replaced are the draw of drafted rows
(`rejection_sample`) and that of a request's last row (`TopKTopPSampler`), both before logprobs are gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from msgspec import Struct
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from pipesd_gateway.sampling import GREEDY_BELOW, Sampler, SamplingParams
from pipesd_vllm.keys import NOISE_ARG


class _Row(Struct):
    """One request of the step under way. place: in the batch; index: absolute one of the next token."""

    place: int
    seed: int
    index: int
    drafts: int


class _Step:
    """What the samplers have to know of the step under way; the worker has one thread."""

    def __init__(self, n_vocab: int) -> None:
        self.sampler = Sampler(n_vocab)
        self.rows: list[_Row] = []

    def draw(self, logits: torch.Tensor, seed: int, index: int) -> int:
        """The token of processed logits (temperature applied, excluded ids at -inf)."""
        return self.sampler.sample(logits.float().cpu().numpy(), SamplingParams(1.0, seed=seed), index)


def install(n_vocab: int) -> None:
    """Put the draws in. Once per worker process."""
    if getattr(GPUModelRunner._sample, "pipesd", False):
        return
    step = _Step(n_vocab)
    _wrap_step(step)
    _wrap_drafted(step)


def _wrap_step(step: _Step) -> None:
    original = GPUModelRunner._sample

    def _sample(self: Any, logits: Any, metadata: Any) -> Any:
        last = self.sampler.topk_topp_sampler
        if not getattr(last.forward, "pipesd", False):
            last.forward = _last_rows(step, last.forward)
        counts = metadata.num_draft_tokens if metadata is not None else None
        step.rows = _rows(self, counts)
        try:
            return original(self, logits, metadata)
        finally:
            step.rows = []

    _sample.pipesd = True  # type: ignore[attr-defined]
    GPUModelRunner._sample = _sample


def _rows(runner: Any, counts: list[int] | None) -> list[_Row]:
    batch = runner.input_batch
    rows = []
    for place, request_id in enumerate(batch.req_ids):
        params = runner.requests[request_id].sampling_params
        if (
            params is not None
            and params.extra_args
            and params.extra_args.get(NOISE_ARG)
            and params.seed is not None
            and params.temperature >= GREEDY_BELOW
        ):
            index = int(batch.num_tokens_no_spec[place])
            rows.append(_Row(place, params.seed, index, counts[place] if counts is not None else 0))
    return rows


def _last_rows(step: _Step, original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(logits: torch.Tensor, generators: Any, k: torch.Tensor | None, p: torch.Tensor | None) -> Any:
        if not step.rows:
            return original(logits, generators, k, p)
        places = torch.tensor([row.place for row in step.rows], device=logits.device)
        kept = logits[places]  # a copy: the original may work in place
        kept = apply_top_k_top_p(kept, None if k is None else k[places], None if p is None else p[places])
        sampled, logprobs = original(logits, generators, k, p)
        for row, row_logits in zip(step.rows, kept, strict=True):
            sampled[row.place] = step.draw(row_logits, row.seed, row.index + row.drafts)
        return sampled, logprobs

    forward.pipesd = True  # type: ignore[attr-defined]
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
        # The original may turn the logits into probabilities in place.
        ends = cu_num_draft_tokens.tolist() if step.rows else []
        kept = {r.place: target_logits[ends[r.place] - r.drafts : ends[r.place]].clone() for r in step.rows if r.drafts}
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
        for row in step.rows:
            tokens = [int(bonus_token_ids[row.place, 0])]
            if row.drafts:
                drafts = draft_token_ids[ends[row.place] - row.drafts : ends[row.place]].tolist()
                tokens = _walk(step, row, drafts, kept[row.place]) or [*drafts, *tokens]
            output[row.place] = rejection_sampler.PLACEHOLDER_TOKEN_ID
            output[row.place, : len(tokens)] = torch.tensor(tokens, dtype=output.dtype, device=output.device)
        return output

    rejection_sampler.rejection_sample = rejection_sample


def _walk(step: _Step, row: _Row, drafts: list[int], logits: torch.Tensor) -> list[int]:
    """The tokens up to the first that is not the draft; empty: every draft was right."""
    tokens = []
    for offset, draft in enumerate(drafts):
        token = step.draw(logits[offset], row.seed, row.index + offset)
        tokens.append(token)
        if token != draft:
            return tokens
    return []
