"""The embedded engine's penalties, biases and logprobs are vLLM's."""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_the_same_logits_and_logprobs() -> None:
    assert run_script("penalties_check.py").endswith("ok")
