"""Which drafter drafts: the `[drafter]` table of the agent's file.

Each kind is a settings struct that makes its drafter; `DrafterSettings` lists them all, the default first. A kind
imports what it needs when it makes one: a drafter that is not used costs the agent nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from pipesd_agent.drafting.drafter import Drafter
from pipesd_core.service.settings import TableKind


class Resources(Struct, frozen=True):
    """What a drafter may use, as `AgentConfig` has it.

    draft_model: GGUF file; None: there is none. capacity: lanes. context: positions of each. threads: of llama.cpp.
    gpu_layers: of the model on a GPU; -1: all.
    """

    draft_model: Path | None
    capacity: int
    context: int
    threads: int
    gpu_layers: int


class _Settings(TableKind, frozen=True):
    """What the settings of all drafters have."""

    runs_model: ClassVar[bool] = False
    """It runs the draft model where there is one: its drafts have an entropy then."""

    @property
    def without_model(self) -> str:
        """The kind that drafts where there is no draft model, or it is not run."""
        return self.kind

    def make(self, resources: Resources) -> Drafter:
        """Make the drafter; blocks while a model loads. Raises ModelLoadError."""
        raise NotImplementedError


class LookupSettings(_Settings, frozen=True, tag="lookup"):
    """Prompt lookup, whether there is a draft model or not."""

    def make(self, resources: Resources) -> Drafter:
        from pipesd_agent.drafting.lookup import LookupDrafter

        return LookupDrafter(capacity=resources.capacity, max_context=resources.context)


class AutoSettings(_Settings, frozen=True, tag="auto"):
    """The draft model where there is one, else prompt lookup."""

    runs_model: ClassVar[bool] = True

    @property
    def without_model(self) -> str:
        return LookupSettings().kind

    def make(self, resources: Resources) -> Drafter:
        if resources.draft_model is None:
            return LookupSettings().make(resources)
        from pipesd_agent.drafting.llama import LlamaDrafter
        from pipesd_core.llamacpp.loading import announced
        from pipesd_core.llamacpp.probe import check_model_runs

        with announced(resources.draft_model):
            check_model_runs(resources.draft_model, gpu_layers=resources.gpu_layers)
            return LlamaDrafter(
                resources.draft_model,
                capacity=resources.capacity,
                n_ctx_seq=resources.context,
                threads=resources.threads,
                gpu_layers=resources.gpu_layers,
            )


DrafterSettings = AutoSettings | LookupSettings
"""All drafters there are; the first one is the default."""
