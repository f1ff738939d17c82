"""The plugin on vLLM's model runner V2, by the test bed, in vLLM's synchronous and its asynchronous loop."""

from __future__ import annotations

import pytest
import v2_bed
from test_vllm_draw import run_script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

LOOPS = ("synchronous", "asynchronous")


def run(script: str, loop: str, seconds: float, **environ: str) -> str:
    return run_script(script, seconds, **v2_bed.environ(asynchronous=loop == "asynchronous"), **environ)


@pytest.mark.parametrize("loop", LOOPS)
def test_sessions_write_what_ordinary_requests_write(loop: str) -> None:
    assert run("v2_identity_check.py", loop, 500).endswith(f"loop {loop}: equal")


@pytest.mark.full
@pytest.mark.parametrize("loop", LOOPS)
def test_sessions_write_what_ordinary_requests_write_in_many_trials(loop: str) -> None:
    assert run("v2_identity_check.py", loop, 800, PIPESD_V2_LONG="1").endswith(f"loop {loop}: equal")


def test_verification_and_refusals() -> None:
    assert run("v2_verifier_check.py", "synchronous", 500).endswith("ok")
