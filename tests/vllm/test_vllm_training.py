"""The training of SmolLM2's draft (examples/smollm2/training)."""

from __future__ import annotations

import pytest
from harness import ROOT
from real_pair import built
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]


def test_it_computes_what_it_says() -> None:
    built("smollm2-vllm")
    assert run_script("training_check.py", 1500, PYTHONPATH=str(ROOT)).endswith("computes what it says")
