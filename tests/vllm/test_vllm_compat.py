"""vLLM's internals are where they were when this plugin was tested; where they are not, a server says so and ends."""

from __future__ import annotations

import subprocess

import pytest
from vllm_server import PROGRAM

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


def doctored(change: str) -> subprocess.CompletedProcess[str]:
    """`pipesd-vllm check` after a change to what the plugin expects."""
    code = f"from pipesd_vllm import cli, compat; {change}; raise SystemExit(cli.main(['check']))"
    return run(str(PROGRAM.with_name("python")), "-c", code)


def test_nothing_has_moved() -> None:
    checked = run(str(PROGRAM), "check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("ok")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("compat.TESTED = '0.99'", "0.99.*, but 0.32.0 is installed"),
        ("compat.INTERNALS['vllm.v1.engine.core:Nowhere'] = ''", "vllm.v1.engine.core:Nowhere is gone"),
        ("compat.INTERNALS['vllm.nowhere:Nothing'] = ''", "vllm.nowhere:Nothing is gone"),
        ("compat.INTERNALS['vllm.v1.engine.core:EngineCore.step'] = 'self,weather'", "expected (self,weather...)"),
    ],
)
def test_what_has_moved_is_named(change: str, says: str) -> None:
    checked = doctored(change)
    assert checked.returncode == 2
    assert says in checked.stderr


def test_wrong_flags_end_before_vllm_starts() -> None:
    refused = run(str(PROGRAM), "serve", "model", "--data-parallel-size", "2")
    assert refused.returncode == 2
    assert "--data-parallel-size must be 1 with pipesd-vllm, but is 2: a session lives" in refused.stderr
