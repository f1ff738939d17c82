"""vLLM's internals are where they were when this plugin was tested; where they are not, a server says so and ends."""

from __future__ import annotations

import json
import subprocess

import pytest
from repository import ROOT
from test_vllm_draw import run_script
from vllm_server import PROGRAM
from vllm_signatures import DATA, signatures, sources

from pipesd_vllm.compat import TESTED

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=280, check=False, stdin=subprocess.DEVNULL)


def doctored(change: str) -> subprocess.CompletedProcess[str]:
    """`pipesd-vllm check` after a change to what the plugin expects."""
    code = f"from pipesd_vllm import cli, compat; {change}; raise SystemExit(cli.main(['check']))"
    return run(str(PROGRAM.with_name("python")), "-c", code)


def test_nothing_has_moved() -> None:
    checked = run(str(PROGRAM), "check")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("ok")


def test_what_was_read_of_the_tested_version_is_what_is_installed() -> None:
    (installed,) = ROOT.glob(".venv-vllm/lib/python3*/site-packages")
    version, of = sources(installed)
    assert json.loads((DATA / f"{TESTED}.json").read_text("utf-8")) == {
        "version": version,
        "signatures": signatures(of),
    }
    assert run_script("signatures_check.py", 200, str(DATA / f"{TESTED}.json")).endswith("signatures as read")


def test_what_is_added_to_vllm_is_still_needed() -> None:
    assert run_script("shims_check.py").endswith("nothing is needless")


def test_a_version_that_was_only_read_starts_with_a_warning() -> None:
    checked = doctored("compat.TESTED, compat.READ = '0.99', ('0.32',)")
    assert checked.returncode == 0, checked.stderr
    assert "vLLM 0.32.0 has never been run with this pipesd-vllm" in checked.stderr
    assert "was read for this plugin" in checked.stdout


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
