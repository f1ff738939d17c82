"""The vLLM engine follows the rules of engines. (vLLM is in .venv-vllm only, pytest is not.)"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from engine_rules import CLOSING_RULES, RULES
from vllm_server import PROGRAM, START_S, runner_environ

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

RULES_S = 500.0


def test_the_vllm_engine_follows() -> None:
    command = [str(PROGRAM.with_name("python")), str(Path(__file__).with_name("conformance_check.py"))]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=START_S + RULES_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | runner_environ(),
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-4000:]
    followed = {line.split()[1].rstrip(":") for line in ran.stdout.splitlines() if line.startswith("rule ")}
    assert followed == {rule.__name__ for rule in [*RULES, *CLOSING_RULES]}
