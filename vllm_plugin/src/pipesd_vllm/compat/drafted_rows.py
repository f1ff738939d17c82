"""`min_p` and `logit_bias` with drafts, which vLLM's V1 model runner leaves out where there is speculation.

vLLM refuses both in the API server and makes no processors for them in the worker; lifting the refusal alone would
leave them out of every answer (vLLM issue 42744). So here the processors are made, by which the rows of steps without
drafts and every request's last row are served by vLLM's own `Sampler`, and drafted rows get the same two processors, in
`Sampler`'s order: biases before penalties, min_p behind the temperature and before top-k and top-p.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import torch
from vllm.v1.sample import rejection_sampler
from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS
from vllm.v1.sample.logits_processor.builtin import LogitBiasLogitsProcessor, MinPLogitsProcessor
from vllm.v1.sample.rejection_sampler import GREEDY_TEMPERATURE, RejectionSampler
from vllm.v1.worker import gpu_model_runner

from pipesd_core.errors import ConfigError
from pipesd_core.sampling.torch_noise import upload
from pipesd_vllm.compat.replacing import replace_once


def install() -> None:
    """Have the processors made, and used on drafted rows. Once per worker process, before its model runner is made."""
    if replace_once(gpu_model_runner, "build_logitsprocs", _all_processors):
        _bias_drafted_rows()
        _cut_drafted_rows()


class _WithoutSpeculation:
    """vLLM's configuration, with no speculation in it."""

    speculative_config = None

    def __init__(self, vllm_config: Any) -> None:
        self._vllm_config = vllm_config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vllm_config, name)


def _all_processors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Have V1 make all processors, which it does not where there is speculation."""

    def build_logitsprocs(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        made = original(_WithoutSpeculation(vllm_config), *args, **kwargs)
        # Their state follows what is decided; what they would do behind a draft they cannot be asked.
        if custom := [type(each).__qualname__ for each in made.all if type(each) not in BUILTIN_LOGITS_PROCESSORS]:
            raise ConfigError(
                "vLLM's V1 model runner cannot have custom logits processors beside drafts, but "
                f"{', '.join(custom)} is given (--logits-processors) or installed (entry points "
                "vllm.logits_processors): leave it out, or uninstall it"
            )
        return made

    return build_logitsprocs


def _bias_drafted_rows() -> None:
    original = RejectionSampler.apply_logits_processors

    @wraps(original)
    def apply_logits_processors(self: Any, logits: torch.Tensor, sampling_metadata: Any, metadata: Any) -> torch.Tensor:
        for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
            if isinstance(processor, LogitBiasLogitsProcessor) and processor.biases:
                logits = _biases_of_rows(processor, metadata.num_draft_tokens, logits.device).apply(logits)
        biased: torch.Tensor = original(self, logits, sampling_metadata, metadata)
        return biased

    RejectionSampler.apply_logits_processors = apply_logits_processors


def _biases_of_rows(of_requests: Any, counts: list[int], device: torch.device) -> Any:
    """The biases of a step's drafted rows. counts: drafted rows of each request, in the order of the batch."""
    ends = np.cumsum(counts)
    rows, tokens, biases = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for request, of_request in of_requests.biases.items():
        count = counts[request]
        rows.append(np.repeat(np.arange(ends[request] - count, ends[request]), len(of_request)))
        tokens.append(np.tile(np.fromiter(of_request.keys(), np.int64), count))
        biases.append(np.tile(np.fromiter(of_request.values(), np.float32), count))
    of_rows = copy.copy(of_requests)
    of_rows.logits_slice = tuple(upload(np.concatenate(indices), device) for indices in (rows, tokens))
    of_rows.bias_tensor = upload(np.concatenate(biases), device)
    return of_rows


def _cut_drafted_rows() -> None:
    original = rejection_sampler.apply_sampling_constraints

    @wraps(original)
    def apply_sampling_constraints(logits: torch.Tensor, cu_num_draft_tokens: torch.Tensor, metadata: Any) -> Any:
        found = (each for each in metadata.logitsprocs.argmax_invariant if isinstance(each, MinPLogitsProcessor))
        min_p = next((each for each in found if each.min_p_count), None)
        if min_p is None or metadata.all_greedy:
            return original(logits, cu_num_draft_tokens, metadata)
        expand, n_rows = rejection_sampler.expand_batch_to_tokens, len(logits)
        temperatures = expand(metadata.temperature, cu_num_draft_tokens, n_rows, GREEDY_TEMPERATURE, 1)
        of_rows = copy.copy(min_p)
        of_rows.min_p = expand(min_p.min_p.squeeze(-1), cu_num_draft_tokens, n_rows).unsqueeze(-1)
        logits = of_rows.apply(logits.div_(temperatures.unsqueeze(-1)))
        applied = torch.ones_like(metadata.temperature)
        return original(logits, cu_num_draft_tokens, replace(metadata, temperature=applied))

    rejection_sampler.apply_sampling_constraints = apply_sampling_constraints
