"""The work-arounds for vLLM's CPU backend do what they say, where the bug is and nowhere else: all are of V1's code."""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script
from vllm_server import RUNNER, VllmServer

pytest_plugins = ("vllm_fixture",)
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_replaced_only_where_broken() -> None:
    assert run_script("cpu_check.py").endswith("replaced only where broken")


def test_each_is_still_needed(server: VllmServer) -> None:
    """One that a server's worker has not applied can go, with what the page says of it."""
    said = server.log.read_text("utf-8")
    if RUNNER == "v1":
        applied = "expand_batch_to_tokens, apply_sampling_constraints, _bookkeeping_sync"
        assert f"work-arounds for vLLM's CPU backend: {applied}" in said
    else:
        assert "work-arounds for vLLM's CPU backend" not in said
