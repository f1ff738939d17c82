"""Files that a user of an earlier version has still start the programs: configurations, tuned thresholds.

Those in tests/helpers/kept are of commit 6adc72c, before there was a core; they are not changed.
"""

from __future__ import annotations

from pathlib import Path

from repository import ROOT

from pipesd_agent.config import AgentConfig
from pipesd_agent.config import load as load_agent
from pipesd_agent.tuning.replay import Pair
from pipesd_agent.tuning.store import ThresholdStore, store_key
from pipesd_gateway.config import load as load_gateway

KEPT = ROOT / "tests" / "helpers" / "kept"


def test_a_configuration_of_the_agent() -> None:
    config = load_agent({}, {}, KEPT / "agent-0.1.0.toml")
    assert config == AgentConfig(draft_model=Path(".build/demo-draft-F16.gguf"))


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
