"""The work-arounds for vLLM's CPU backend do what they say, where the bug is and nowhere else."""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_replaced_only_where_broken() -> None:
    assert run_script("cpu_check.py").endswith("replaced only where broken")
