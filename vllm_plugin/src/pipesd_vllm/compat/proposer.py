"""vLLM's `custom_class` proposer whose drafts come from remote edges: it proposes nothing itself.

vLLM makes it in the worker before any sampler runs, so it is also where the worker's patches are put in.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform

from pipesd_vllm import compat
from pipesd_vllm.compat import cpu, drafted_rows, sampler
from pipesd_vllm.runner_choice import V1


class RemoteDrafts:
    """Proposer of the speculative configuration. The scheduler hands the drafts over, see `ParkingScheduler`."""

    def __init__(self, vllm_config: Any) -> None:
        compat.check(V1)
        if current_platform.is_cpu():
            cpu.work_around()
        drafted_rows.install()
        sampler.install(vllm_config.model_config.get_vocab_size())

    def load_model(self, *_args: Any, **_kwargs: Any) -> None:
        """Load nothing: there is no model."""

    def dummy_run(self, *_args: Any, **_kwargs: Any) -> None:
        """Run nothing: there is no model."""

    def propose(self, sampled_token_ids: list[list[int]], *_args: Any, **_kwargs: Any) -> list[list[int]]:
        """Propose no drafts for any request."""
        return [[] for _ in sampled_token_ids]
