"""Which drafter is made."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipesd_agent.config import AgentConfig, load
from pipesd_agent.control.triggers import SvipSettings
from pipesd_agent.drafting.lookup import LookupDrafter
from pipesd_agent.drafting.settings import AutoSettings, DrafterSettings, LookupSettings, Resources
from pipesd_core.errors import ConfigError

MODEL = Path("draft.gguf")


def resources(model: Path | None) -> Resources:
    return Resources(model, capacity=3, context=100, threads=1, gpu_layers=0)


def test_without_a_model_prompt_lookup_drafts() -> None:
    drafter = AutoSettings().make(resources(None))
    assert isinstance(drafter, LookupDrafter)
    assert (drafter.capacity, drafter.max_context) == (3, 100)


def test_prompt_lookup_where_there_is_a_model() -> None:
    assert isinstance(LookupSettings().make(resources(MODEL)), LookupDrafter)
    config = AgentConfig(draft_model=MODEL, drafter=LookupSettings())
    assert not config.drafts_by_model
    assert AgentConfig(draft_model=MODEL).drafts_by_model
    assert not AgentConfig().drafts_by_model


def test_thresholds_are_kept_by_what_drafts() -> None:
    """Those of prompt lookup are not those of a model."""
    named = [AgentConfig(), AgentConfig(drafter=LookupSettings()), AgentConfig(draft_model=MODEL)]
    assert [config.drafter_name for config in named] == ["lookup", "lookup", "draft.gguf"]
    assert AgentConfig(draft_model=MODEL, drafter=LookupSettings()).drafter_name == "lookup"


def test_prompt_lookup_has_no_entropy_to_go_by() -> None:
    with pytest.raises(ConfigError, match="lookup has none"):
        AgentConfig(draft_model=MODEL, drafter=LookupSettings(), trigger=SvipSettings())


def test_the_table_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[drafter]\nkind = 'lookup'")
    config = load({}, {}, file)
    assert config.drafter == LookupSettings()
    assert config.drafter.kind == "lookup"
    file.write_text("[drafter]\nkind = 'oracle'")
    with pytest.raises(ConfigError, match=r"drafter\.kind must be one of auto, .*but is 'oracle'"):
        load({}, {}, file)
    assert msgspec.convert({"kind": "auto"}, DrafterSettings) == AutoSettings()
