"""Remote drafts on the V2 model runner: the speculator that proposes nothing, and the drafts' way into the runner.

Loaded by the runner itself (`runners.prepare`), in every worker, before it makes its samplers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.lora_utils import LoraState
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator

from pipesd_core.errors import ConfigError
from pipesd_vllm import compat
from pipesd_vllm.compat.replacing import replace_once
from pipesd_vllm.compat.verifier import Verifier
from pipesd_vllm.runner_choice import V2

OF_STEP: Final = "pipesd_drafts"
"""The name of the step's drafts in what the runner knows of adapters: it asks for those of all rows without them."""
OTHER_NOISE: Final[dict[str, Callable[[Any], bool]]] = {
    "--use-fp64-gumbel": lambda config: config.model_config.use_fp64_gumbel,
    "--watermark-config": lambda config: config.watermark_config is not None,
    "enable_adaptive_verification of --speculative-config": (
        lambda config: config.speculative_config.enable_adaptive_verification
    ),
    "a diffusion model": lambda config: config.model_config.is_diffusion,
}
"""What has its own draw or its own verification, by the name that the operator knows it by: an answer through an agent
would not be the answer without one."""


class RemoteDrafts(BaseSpeculator):
    """V2's speculator of the configuration that `pipesd-vllm serve` makes. The scheduler hands the drafts over."""

    supports_mm_inputs = False
    draft_logits = None

    def __init__(self, vllm_config: Any, device: torch.device, req_states: Any) -> None:
        refuse_other_noise(vllm_config)
        compat.check(V2)
        n_drafts = vllm_config.speculative_config.num_speculative_tokens
        shape = (vllm_config.scheduler_config.max_num_seqs, n_drafts)
        table = getattr(req_states, "draft_tokens", None)
        if table is None or tuple(table.shape) != shape:
            raise ConfigError(
                "vLLM's table of draft tokens is not where it was, or of another shape: this pipesd-vllm is made for "
                f"vLLM {compat.TESTED}"
            )
        self._nothing = torch.full(shape, -1, dtype=table.dtype, device=device)
        install()

    def init_cudagraph_manager(self, *_args: Any, **_kwargs: Any) -> None:
        """Make nothing: there is no draft model."""

    def capture(self) -> None:
        """Capture nothing: there is no draft model."""

    def propose(self, input_batch: Any, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        """Propose no drafts for any request."""
        return self._nothing[: input_batch.num_reqs]


def refuse_other_noise(vllm_config: Any) -> None:
    """Raises ConfigError that names what a server with agents cannot have."""
    for name, has in OTHER_NOISE.items():
        if has(vllm_config):
            raise ConfigError(
                f"{name} cannot be had with pipesd-vllm on the V2 model runner: it does not draw the tokens that "
                "agents draft for; leave it out"
            )


def install() -> None:
    """Put verifier, drafts and adapters of drafted rows into the runner. Harmless when repeated."""
    model_runner.RejectionSampler = Verifier
    replace_once(model_runner.GPUModelRunner, "prepare_inputs", _with_drafts)
    replace_once(LoraState, "make_lora_inputs", _with_adapters_of_drafted_rows)


def _with_drafts(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        drafts = scheduler_output.scheduled_spec_decode_tokens
        hand_over(drafts, self.req_states, self.device)
        setattr(self.lora_state, OF_STEP, drafts)
        return original(self, scheduler_output, *args, **kwargs)

    return prepare_inputs


def _with_adapters_of_drafted_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    """Name an adapter for each row of logits. vLLM 0.32 and 0.33 name one for each request, with any speculation.

    The head's rows then have the adapters of other rows, or, on a CPU, their number is wrong, which ends the engine.
    """

    def make_lora_inputs(self: Any, req_ids: list[str], *args: Any) -> Any:
        of_requests, of_tokens, active = original(self, req_ids, *args)
        drafts = getattr(self, OF_STEP)
        rows = [1 + len(drafts.get(request_id, ())) for request_id in req_ids]
        return tuple(np.repeat(of_requests, rows)), of_tokens, active

    return make_lora_inputs


def hand_over(drafts: dict[str, list[int]], req_states: Any, device: torch.device) -> None:
    """Copy a step's drafts to where the runner looks for them, in one copy and without waiting for it.

    Every rank has the scheduler's output, so every rank has the same drafts.
    """
    found = [(req_states.req_id_to_index[request_id], ids) for request_id, ids in drafts.items() if ids]
    if not found:
        return
    table = req_states.draft_tokens
    rows = np.full((len(found), table.shape[1]), -1, dtype=np.int64)
    for row, (_, ids) in zip(rows, found, strict=True):
        row[: len(ids)] = ids
    slots = async_tensor_h2d(np.array([slot for slot, _ in found]), device=device)
    table[slots] = async_tensor_h2d(rows, device=device, dtype=table.dtype)
