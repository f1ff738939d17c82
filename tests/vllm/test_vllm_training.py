"""The training of SmolLM2's draft (examples/smollm2/training). (torch is in .venv-vllm only, pytest is not.)"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness import ROOT
from real_pair import built
from vllm_server import PROGRAM

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.timeout(1800)]


def test_it_computes_what_it_says() -> None:
    built("smollm2-vllm")
    command = [str(PROGRAM.with_name("python")), str(Path(__file__).with_name("training_check.py"))]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, check=False, stdin=subprocess.DEVNULL, env=environ
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert ran.stdout.strip().endswith("computes what it says")
