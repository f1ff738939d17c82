"""The parking scheduler on scripted outputs, for both model runners and both loops. (vLLM is in .venv-vllm only.)"""

from __future__ import annotations

import pytest
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def test_sessions_are_parked_and_taken_up_again() -> None:
    assert run_script("parking_check.py", 600).endswith("passed")


def test_random_schedules_of_edges_clients_and_resets() -> None:
    assert run_script("parking_machine_check.py", 600, SCHEDULES="300").endswith("passed")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_thousands_of_random_schedules() -> None:
    assert run_script("parking_machine_check.py", 3000, SCHEDULES="5000").endswith("passed")
