"""The parking scheduler on scripted outputs, for both model runners and both loops. (vLLM is in .venv-vllm only.)"""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_sessions_are_parked_and_taken_up_again() -> None:
    assert run_script("parking_check.py", 600).endswith("passed")
