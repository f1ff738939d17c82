from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from repository import BUILD

from pipesd_core.errors import ModelLoadError
from pipesd_core.llamacpp import probe

MODEL = Path("some/model.gguf")


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(probe, "_command", lambda _path, _gpu_layers: [sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (signal.SIGILL, r"GGML_NATIVE=OFF"),
        (signal.SIGKILL, "not enough memory"),
        (signal.SIGSEGV, "fetch it again.*GGML_NATIVE=OFF"),
        (signal.SIGTERM, "fetch it again"),
    ],
)
def test_a_death_by_signal_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, advice: str
) -> None:
    instead(monkeypatch, f"import os; os.kill(os.getpid(), {int(number)})")
    with pytest.raises(ModelLoadError, match=f"some/model.gguf: .* killed it with {number.name}; .*{advice}"):
        probe.check_model_runs(MODEL)


def test_a_death_with_layers_on_a_gpu_says_how_to_tell_whose_fault_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "import os; os.abort()")
    with pytest.raises(ModelLoadError, match=r"SIGABRT; gpu_layers = 0 shows .*fetch it again"):
        probe.check_model_runs(MODEL, gpu_layers=-1)


def test_a_signal_without_a_name_is_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 2)")
    with pytest.raises(ModelLoadError, match=rf"killed it with signal {signal.SIGRTMIN + 2};"):
        probe.check_model_runs(MODEL)


def test_a_child_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(ModelLoadError, match=r"took more than 0\.2 s"):
        probe.check_model_runs(MODEL, timeout_s=0.2)


def test_a_large_file_has_more_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """40 GB at 20 MB/s take 2000 s."""
    file = tmp_path / "large.gguf"
    with file.open("wb") as large:
        large.truncate(40 * 10**9)
    given: list[float] = []

    def run(*_: object, timeout: float, **__: object) -> subprocess.CompletedProcess[bytes]:
        given.append(timeout)
        return subprocess.CompletedProcess([], 0, b"")

    monkeypatch.setattr(subprocess, "run", run)
    probe.check_model_runs(file)
    probe.check_model_runs(MODEL)  # which is not there: the test process says so
    assert given == [probe.LOAD_TIMEOUT_S + 2000, probe.LOAD_TIMEOUT_S]


def test_another_failure_shows_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, "raise RuntimeError('no llama_cpp here')")
    with pytest.raises(ModelLoadError, match="ended with status 1: RuntimeError: no llama_cpp here"):
        probe.check_model_runs(MODEL)
    instead(monkeypatch, "raise SystemExit(3)")
    with pytest.raises(ModelLoadError, match="ended with status 3: it said nothing"):
        probe.check_model_runs(MODEL)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_the_demo_target_runs(kind: str) -> None:
    probe.check_model_runs(BUILD / f"demo-target-{kind}.gguf")


@pytest.mark.e2e
def test_layers_for_a_gpu_reach_the_test_process() -> None:
    code = probe._command(BUILD / "demo-draft-F16.gguf", -1)
    assert code[-1] == "-1"
    probe.check_model_runs(BUILD / "demo-draft-F16.gguf", gpu_layers=-1)


@pytest.mark.e2e
def test_an_unusable_file_is_told_as_by_the_loader(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no model file"):
        probe.check_model_runs(tmp_path / "none.gguf")


def test_a_library_that_the_environment_names_and_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"llama\.cpp cannot be loaded: .*LLAMA_CPP_LIB_PATH names .*unset it"):
        probe.check_model_runs(tmp_path / "model.gguf")
