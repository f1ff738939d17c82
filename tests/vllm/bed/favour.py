"""A custom logits processor of model runner V2, as somebody's server may have one.

It favours a token that depends on the token before it and on the place: so a drafted row is processed right only if it
is processed with its own draft and its own position.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

ARGUMENT: Final = "favour"
"""In `vllm_xargs`: by how much."""


class Favour(LogitsProcessor):  # type: ignore[misc]  # a class of vLLM's
    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        super().__init__(vllm_config, req_states)
        self._by = torch.zeros(req_states.max_num_reqs, device=req_states.device)
        self._n_vocab = req_states.vocab_size

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        self._by[req_idx] = float((sampling_params.extra_args or {}).get(ARGUMENT, 0))
        return bool(self._by[req_idx] != 0)

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        rows = torch.arange(len(logits), device=logits.device)
        favoured = (ctx.input_ids.long() * 31 + ctx.pos.long() * 7) % self._n_vocab
        logits[rows, favoured] += self._by[ctx.expanded_idx_mapping.long()]
        return logits
