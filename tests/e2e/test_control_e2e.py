"""`pipesd-agent start` without a flag for it uses the whole control plane, and says what it does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import MODEL, agent_process, complete, gateway
from prometheus_client.parser import text_string_to_metric_families

from pipesd_agent.api.metrics import MODES
from pipesd_agent.tuning.store import state_file

pytestmark = pytest.mark.e2e

THRESHOLDS = ("pipesd_agent_sequence_threshold", "pipesd_agent_token_threshold")
DEFAULT = ("--mode", "auto")
"""The harness's agents always draft, unless told otherwise."""
SHOWN = (
    "uplink_message_seconds",
    "uplink_token_seconds",
    "drafted_token_seconds",
    "uplink_round_trip_seconds",
    "draft_length_planned",
    "sequence_threshold",
    "token_threshold",
    "draft_acceptance_ratio",
    "recent_verifications_per_output_token",
    "recent_output_token_seconds",
)


def test_everything_is_in_use_and_shown(tmp_path: Path) -> None:
    """The step's floor makes drafting worth while."""
    with gateway(tmp_path, "--step-floor-ms", "30") as target, agent_process(tmp_path, target.root, *DEFAULT) as agent:
        texts = {}
        for number in range(12):
            body: dict[str, Any] = {"max_tokens": 64, "temperature": number % 2, "seed": number, "ignore_eos": True}
            texts[number] = complete(agent.url, "def add(a, b):\n", **body)[0]
        scrape = httpx.get(f"{agent.root}/metrics").raise_for_status().text
        health = httpx.get(f"{agent.root}/health").json()
        served = httpx.get(f"{target.root}/metrics").raise_for_status().text
        for number in (0, 1, 11):
            body = {"max_tokens": 64, "temperature": number % 2, "seed": number, "ignore_eos": True}
            assert complete(target.url, "def add(a, b):\n", **body)[0] == texts[number], MODEL
    found = {sample.name: sample for family in text_string_to_metric_families(scrape) for sample in family.samples}
    assert [name for name in SHOWN if f"pipesd_agent_{name}" not in found] == []
    assert found["pipesd_agent_batcher_info"].labels == {"batcher": "expected"}
    assert found["pipesd_agent_trigger_info"].labels == {"trigger": "dual"}
    assert health["mode"] in MODES[:3]
    assert health["mode_reason"]
    assert f'pipesd_agent_mode{{mode="{health["mode"]}"}} 1.0' in scrape
    assert 0 < found["pipesd_agent_drafted_token_seconds"].value < 0.05
    assert found["pipesd_agent_uplink_message_seconds"].value < 0.001, "a link that takes nothing"
    assert found["pipesd_agent_target_step_seconds"].value == pytest.approx(0.03, abs=0.01)
    assert found["pipesd_agent_output_tokens_total"].value == 12 * 64
    assert found["pipesd_agent_verifications_total"].value > 0
    assert 'pipesd_agent_requests_finished_total{outcome="completed",route="session"} 12.0\n' in scrape
    # Both sides have counted the same.
    engine = {
        sample.name: sample.value for family in text_string_to_metric_families(served) for sample in family.samples
    }
    assert engine["pipesd_engine_steps_total"] == found["pipesd_agent_target_steps_total"].value
    assert 'pipesd_gateway_requests_finished_total{outcome="completed",source="agent"} 12.0\n' in served
    assert 'pipesd_gateway_time_to_first_token_seconds_count{source="agent"} 12.0\n' in served
    assert engine["pipesd_engine_sequences_free"] == 4
    log = (tmp_path / "agent.log").read_text()
    assert re.search(r"upload planner: costs are .* ms a message", log)


def test_what_was_found_is_kept_for_the_next_start(tmp_path: Path) -> None:
    flags = ("--mode", "collaborative")
    with gateway(tmp_path, "--step-floor-ms", "10") as target:
        with agent_process(tmp_path, target.root, *flags) as agent:
            for number in range(16):
                complete(agent.url, "import ", max_tokens=64, temperature=0, seed=number, ignore_eos=True)
        file = state_file()
        assert file is not None
        kept = json.loads(file.read_bytes())
        (key,) = (key for key in kept["pairs"] if target.root in key and key.endswith("greedy"))
        kept["pairs"][key] = {"r1": 0.5, "r2": 0.625}
        file.write_text(json.dumps(kept))
        with agent_process(tmp_path, target.root, *flags) as agent:
            complete(agent.url, "import ", max_tokens=4, temperature=0)
            assert thresholds(agent.root) == (0.5, 0.625)


def thresholds(root: str) -> tuple[float, ...]:
    """Of greedy answers."""
    families = text_string_to_metric_families(httpx.get(f"{root}/metrics").raise_for_status().text)
    samples = [sample for family in families for sample in family.samples]
    return tuple(s.value for s in samples if s.name in THRESHOLDS and s.labels["sampling"] == "greedy")
