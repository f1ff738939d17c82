"""vLLM's two model runners: which of them can run here, and how ours gets into V2.

V1 takes its proposer by the name of a class (`custom_class`), V2 does not. There `init_speculator` is replaced in the
package that the runner's module takes it from, by our general plugin, which runs in every process before the runner is
imported. (To import it here would be wrong: on a CPU a module that patches torch must come first.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from pipesd_vllm.compat.replacing import replace_once
from pipesd_vllm.runner_choice import REMOTE_DRAFTS, V2

RUNNER: Final = "vllm.v1.worker.gpu.model_runner"


def v2_is_missing() -> str | None:
    """Why V2 cannot run in this environment; None: it can."""
    from vllm.triton_utils import HAS_TRITON

    return None if HAS_TRITON else "it needs Triton with a backend for this device"


def prepare() -> None:
    """Have V2 make our speculator, and the front end take all parameters, where the configuration is ours.

    Harmless when repeated.
    """
    from vllm.v1.worker.gpu import spec_decode

    replace_once(spec_decode, "init_speculator", _ours_or_vllms)
    if RUNNER in sys.modules:  # only where somebody has imported it before us
        replace_once(sys.modules[RUNNER], "init_speculator", _ours_or_vllms)
    replace_once(SamplingParams, "_validate_spec_decode", _validated_by_us)


def _ours(speculative_config: Any) -> str | None:
    """The runner whose speculative configuration of ours this is; None: it is not ours."""
    model = getattr(speculative_config, "model", None)
    return next((runner for runner, name in REMOTE_DRAFTS.items() if name == model), None)


def _ours_or_vllms(original: Callable[..., Any]) -> Callable[..., Any]:
    def init_speculator(vllm_config: Any, device: Any, req_states: Any) -> Any:
        if _ours(vllm_config.speculative_config) != V2:
            return original(vllm_config, device, req_states)
        from pipesd_vllm.compat.speculator import RemoteDrafts

        return RemoteDrafts(vllm_config, device, req_states)

    return init_speculator


def _validated_by_us(original: Callable[..., None]) -> Callable[..., None]:
    """Let `min_p` and `logit_bias` pass: V2 applies them to drafted rows of its own accord, V1 by `drafted_rows`.

    vLLM's own check looks at no runner. Scores of given tokens are refused instead: in a step with drafts V2 has none,
    and on V1 they end the engine.
    """

    def _validate_spec_decode(self: Any, speculative_config: Any) -> None:
        if _ours(speculative_config) is None:
            original(self, speculative_config)
        elif self.logprob_token_ids:
            raise VLLMValidationError(
                "scores of given tokens (logprob_token_ids, label_token_ids) cannot be had of a server that verifies "
                "drafts: ask one without the plugin",
                parameter="logprob_token_ids",
            )

    return _validate_spec_decode
