"""Check that a model runs on this machine at all, in a process of its own, since a failure is death by a signal.

A native llama.cpp build by GCC 12 dies of SIGILL on hosts with AMX as soon as it decodes two rows with quantised
weights (the compiler drops stores into the tile configuration). Any build dies so on a CPU older than the one it was
compiled for.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from pipesd_core.errors import ModelLoadError

_UNUSABLE: Final = 3
"""Exit status of the child when the model cannot be used; its stdout says why."""
_REBUILD: Final = (
    "rebuild llama.cpp for any CPU: CMAKE_ARGS='-DGGML_NATIVE=OFF' pip install --force-reinstall --no-cache-dir "
    "--no-binary llama-cpp-python llama-cpp-python"
)
LOAD_TIMEOUT_S: Final = 120.0
"""Longest time for a test process to load a model and decode two rows, besides that of reading its file."""
SLOWEST_DISK: Final = 20e6
"""Bytes of a model's file that are read in a second, at the least: a large model on a slow disk is no fault of it."""
_ADVICE: Final = {
    signal.SIGILL: f"the compiled llama.cpp uses instructions that this CPU refuses: {_REBUILD}",
    signal.SIGKILL: "most likely there is not enough memory: use a smaller model or a stronger quantisation",
}


def check_model_runs(path: str | Path, *, gpu_layers: int = 0, timeout_s: float | None = None) -> None:
    """Load the model in a child process and decode two rows. Blocks for about the time that importing and loading take.

    gpu_layers: as for `Model`. timeout_s: None: LOAD_TIMEOUT_S, and the time to read the file at SLOWEST_DISK.
    Raises ModelLoadError that says what happened and what to do: unusable file, killed by a signal, no end in time.
    """
    if timeout_s is None:
        timeout_s = LOAD_TIMEOUT_S + _size(Path(path)) / SLOWEST_DISK
    try:
        child = subprocess.run(
            _command(Path(path), gpu_layers),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else an assertion in ggml starts a debugger
        )
    except subprocess.TimeoutExpired:
        raise ModelLoadError(
            f"{path}: loading the model and decoding two tokens took more than {timeout_s:.4g} s in a test process: "
            "the machine is too slow or too busy for this model; use a smaller one"
        ) from None
    if child.returncode == 0:
        return
    output = child.stdout.decode("utf-8", "replace").strip()
    if child.returncode == _UNUSABLE and output:
        raise ModelLoadError(output)
    if child.returncode < 0:
        name, advice = _signal(-child.returncode)
        if gpu_layers:
            advice = f"gpu_layers = 0 shows whether the GPU is the cause; if it is not, {advice}"
        raise ModelLoadError(f"{path}: decoding two tokens in a test process killed it with {name}; {advice}")
    last_words = child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise ModelLoadError(
        f"{path}: the test process ended with status {child.returncode}: {last_words or 'it said nothing'}"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the test process says why
        return 0


def _signal(number: int) -> tuple[str, str]:
    try:
        killer = signal.Signals(number)
    except ValueError:
        return f"signal {number}", _REBUILD
    return killer.name, _ADVICE.get(killer, f"the file may be damaged (fetch it again), or {_REBUILD}")


def _command(path: Path, gpu_layers: int) -> list[str]:
    # -P: a file in the working directory must not be taken for one of our modules.
    return [sys.executable, "-P", "-m", "pipesd_core.llamacpp.probe", str(path), str(gpu_layers)]


def _main(path: str, gpu_layers: int) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # dying is a normal outcome: leave no core file of a whole model
    try:
        from pipesd_core.llamacpp.binding import Context, Model

        with (
            Model(path, gpu_layers=gpu_layers) as model,
            Context(model, n_ctx=64, n_seq=1, n_batch=2) as context,
        ):
            context.decode([0, 0], [0, 1], 0, True)
    except ModelLoadError as error:
        print(error)
        return _UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], int(sys.argv[2])))
