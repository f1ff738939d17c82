"""LoRA adapters: what vLLM demands of a server that has them beside speculation, and of a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from pipesd_vllm import limits
from pipesd_vllm.compat.replacing import replace_once

OURS: Final = "pipesd_vllm."
"""What the name of our scheduler begins with."""


def set_default_tokens() -> None:
    """Have `--max-num-batched-tokens` right for LoRA where nothing is given. Harmless when repeated.

    vLLM's own default is too small for its own check on most devices, and its message does not say what would do.
    """
    if "vllm.engine.arg_utils" not in sys.modules:
        return  # a process that makes no configuration; the module is a large one
    from vllm.engine.arg_utils import EngineArgs

    replace_once(EngineArgs, "_set_default_max_num_seqs_and_batched_tokens_args", _with_room_for_drafts)


def _with_room_for_drafts(original: Callable[..., None]) -> Callable[..., None]:
    def set_defaults(self: Any, *args: Any, **kwargs: Any) -> None:
        given = self.max_num_batched_tokens
        original(self, *args, **kwargs)
        if self.enable_lora and str(self.scheduler_cls).startswith(OURS):
            drafts = self.speculative_config["num_speculative_tokens"]
            self.max_num_batched_tokens = limits.lora_tokens(
                self.max_num_seqs, drafts, given, self.max_num_batched_tokens
            )

    return set_defaults


def has_room(request: Any, running: Iterable[Any], lora_config: Any) -> bool:
    """Whether a step with the running requests may have this one too: it has at most `--max-loras` adapters.

    vLLM asks that of requests that wait. For running ones it is an assertion, which ends the engine for everybody.
    """
    if lora_config is None or request.lora_request is None:
        return True
    adapters = {each.lora_request.lora_int_id for each in running if each.lora_request is not None}
    return request.lora_request.lora_int_id in adapters or len(adapters) < lora_config.max_loras
