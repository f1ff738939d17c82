"""The plugin draws the tokens that the gateway's sampler draws. (torch is in .venv-vllm only, pytest is not.)"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from vllm_server import PROGRAM

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def run_script(name: str, seconds: float = 200, *arguments: str, **environ: str) -> str:
    """What a script beside this file prints under .venv-vllm's python; it has to end well."""
    command = [str(PROGRAM.with_name("python")), str(Path(__file__).with_name(name)), *arguments]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | environ,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout.strip()


@pytest.mark.parametrize(("script", "says"), [("draw_check.py", "tokens equal"), ("sampler_check.py", "accepted")])
def test_tokens_are_the_samplers(script: str, says: str) -> None:
    assert run_script(script).endswith(says)
