"""Verification on the V2 model runner: a draft is accepted iff it is the token that the target draws at its place.

V2 draws by shared noise (architecture §5) of its own accord: the noise of a row is a hash of seed, position and token
id, the same hash as ours. So a drafted row is sampled exactly as the row of an ordinary request, by the same kernels
and after all of vLLM's logits processing (biases, penalties, bad words, grammar, custom processors, temperature, min_p,
top-k, top-p), and its text is the ordinary request's. V2's own rule (accept with the probability p/q) is replaced;
everything around it (logprobs, drafts that the grammar forbids, steps without drafts) stays vLLM's.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler


class Verifier(RejectionSampler):
    """V2's rejection sampler with our rule."""

    def _verify(
        self,
        logits: torch.Tensor,
        draft_logits: torch.Tensor | None,  # noqa: ARG002  remote drafts have none
        draft_sampled: torch.Tensor,
        pos: torch.Tensor,
        cu_num_logits: torch.Tensor,
        idx_mapping: torch.Tensor,
        idx_mapping_np: Any,
        expanded_idx_mapping: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        seq_lens_upper_bound_np: Any,
        verify_draft_sampled: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        sampler = self.sampler
        processed = sampler.apply_sampling_params(
            logits,
            expanded_idx_mapping,
            idx_mapping,
            idx_mapping_np,
            pos,
            draft_sampled,
            expanded_local_pos,
            seq_lens_upper_bound_np,
        )
        drawn = gumbel_sample(
            processed,
            expanded_idx_mapping,
            sampler.sampling_states.temperature.gpu,
            sampler.sampling_states.seeds.gpu,
            pos,
            apply_temperature=False,
            is_drafting=False,
        )
        tokens, counts = walk(
            drawn, verify_draft_sampled, cu_num_logits, expanded_local_pos, self.num_speculative_steps
        )
        return processed, tokens, counts


def walk(
    drawn: torch.Tensor, drafts: torch.Tensor, ends: torch.Tensor, offsets: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens (requests, most + 1), how many of them count) of rows of logits. Does not wait for the device.

    A request's tokens count up to the first that is not the draft of its place, that one included.

    Args:
        drawn: token of each row.
        drafts: id that each row follows: in a request's first row no draft but its last decided token; -1 is a draft
            that cannot be accepted.
        ends: (requests + 1,) rows before each request, and all rows.
        offsets: of each row within its request.
        most: drafts that a request may have.
    """
    n_rows, n_requests = drawn.shape[0], ends.shape[0] - 1
    counts = ends[1:] - ends[:-1]
    numbers = torch.arange(n_requests, device=drawn.device)
    request, offset = torch.repeat_interleave(numbers, counts, output_size=n_rows), offsets.long()
    tokens = drawn.new_zeros(n_requests, most + 1)
    tokens[request, offset] = drawn
    # Column i + 1: the draft that row i is to be compared with, which row i + 1 follows.
    asked = drawn.new_full((n_requests, most + 2), -1)
    asked[request, offset] = drafts.to(asked.dtype)
    accepted = (tokens[:, :most] == asked[:, 1 : most + 1]).long().cumprod(1).sum(1)
    return tokens, (accepted + 1).to(torch.int32)
