"""Files that a user of an earlier version has still start the programs, or are refused by the name of what changed.

Those in tests/helpers/kept are of commit 6adc72c, before there was a core; they are not changed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from repository import ROOT

from pipesd_agent.config import AgentConfig
from pipesd_agent.config import load as load_agent
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.store import ThresholdStore, store_key
from pipesd_core.errors import ConfigError
from pipesd_gateway.config import load as load_gateway

KEPT = ROOT / "tests" / "helpers" / "kept"


def test_a_configuration_of_the_agent(tmp_path: Path) -> None:
    """Each key that is gone is named, one after the other; without them the rest works as it did."""
    text = (KEPT / "agent-0.1.0.toml").read_text("utf-8")
    file = tmp_path / "agent.toml"
    for gone in ("trigger.length", "trigger.decay", "trigger.h", "trigger.bound", "session.nav_timeout_s"):
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=f"unknown key '{gone}'"):
            load_agent({}, {}, file)
        name = gone.split(".")[1]
        text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(f"{name} "))
    file.write_text(text, "utf-8")
    assert load_agent({}, {}, file) == AgentConfig(draft_model=Path(".build/demo-draft-F16.gguf"))


def test_a_configuration_of_the_gateway() -> None:
    config = load_gateway({}, {}, KEPT / "gateway-0.1.0.toml")
    assert (config.model, config.n_seq, config.grace) == (Path(".build/demo-target-F16.gguf"), 4, 30.0)


def test_a_store_of_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_bytes((KEPT / "thresholds-0.1.0.json").read_bytes())
    kept = ThresholdStore(path)
    draft, gateway = "demo-draft-F16.gguf 0011", "http://127.0.0.1:8100"
    assert kept.get(store_key(draft, gateway, 0.0, sampled=False)) == Pair(0.25, 0.125)
    assert kept.get(store_key(draft, gateway, 200.0, sampled=True)) == Pair(0.5, 0.0625)


def test_the_former_name_of_the_cost_of_a_verification_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[tuner]\nprice_ms = 5.0\n", "utf-8")
    with pytest.raises(ConfigError, match="price_ms"):
        load_agent({}, {}, file)
